"""Which mbuild this is."""

from __future__ import annotations

VERSION = "0.1.0"
"""Of the package too: the build reads it here. Asking what is installed takes longer than all else that is told of a
build (importlib.metadata, and the parser of e-mails with it)."""
