"""Caches that travel, as builds use them: which, what goes into them, what comes out."""
