"""What only the engine can tell of what the store holds: images, bases, machines, templates, disks."""
