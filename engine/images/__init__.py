"""Images as they lie elsewhere: references, registries, OCI layouts, archives, configurations."""
