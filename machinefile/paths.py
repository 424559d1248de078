"""Paths inside an image or a context: always with slashes, whatever the host."""

from __future__ import annotations

import posixpath


def clean(path: str) -> str:
    """An absolute path without `.`, `..` and doubled slashes; `..` at the root stays at the root."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def join(directory: str, path: str) -> str:
    """A path as seen from a directory, absolute and clean."""
    return clean(path if path.startswith("/") else f"{directory}/{path}")


def relative(path: str) -> str:
    """A source of a COPY from its root: clean, never absolute, never `..`; `.` for the root itself."""
    return clean(path).lstrip("/") or "."


def is_directory(path: str) -> bool:
    """Whether a destination says that it is a directory."""
    return path in ("", ".") or path.endswith(("/", "/."))
