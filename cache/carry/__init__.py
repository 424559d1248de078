"""Caches that travel: what a registry, a folder or an object store holds of the results of steps."""
