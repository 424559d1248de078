"""Layers: reading what others made, writing ours, looking into them, turning them into disks."""
