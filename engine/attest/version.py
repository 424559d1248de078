"""Which mbuild this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def mbuild_version() -> str:
    """Of this mbuild."""
    try:
        return version("machinefile")
    except PackageNotFoundError:
        return "unknown"
