"""Caches that travel, as a build sends and uses them."""
