"""Paths in layers: cleaned, and the file names with a meaning of their own. Source: OCI image spec, layer.md."""

from __future__ import annotations

WHITEOUT_PREFIX = ".wh."
META_PREFIX = ".wh..wh."
"""aufs's own files: none of them is part of an image."""
OPAQUE_MARKER = ".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"


class BadPathError(ValueError):
    """A path that no layer may hold; the text says why."""


def clean_path(raw: str) -> str:
    """A path as Entry has it: no leading, trailing or double slash, no `.`; empty for the root.

    A leading slash is dropped as Docker drops it. Raises BadPathError on `..`, on NUL, and on a component that
    is longer than Linux allows.
    """
    parts = [part for part in raw.split("/") if part and part != "."]
    if ".." in parts:
        raise BadPathError("it climbs out with `..`")
    if "\0" in raw:
        raise BadPathError("it has a NUL byte in it")
    # 255 bytes a component; below 64 characters no UTF-8 text can reach that.
    if len(raw) > 63 and any(len(part) > 63 and len(encode(part)) > 255 for part in parts):
        raise BadPathError("a part of it is longer than 255 bytes")
    return "/".join(parts)


def encode(text: str) -> bytes:
    """The bytes of a path."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """The path of bytes; what is not UTF-8 becomes surrogates (PEP 383)."""
    return data.decode("utf-8", "surrogateescape")


def parent_of(path: str) -> str:
    """The directory a path stands in; the root for what stands in it."""
    return path.rpartition("/")[0]


def ancestors_of(path: str) -> tuple[str, ...]:
    """The directories above a path, the root first; none for the root itself."""
    if not path:
        return ()
    found = [""]
    at = path.find("/")
    while at >= 0:
        found.append(path[:at])
        at = path.find("/", at + 1)
    return tuple(found)


def join(directory: str, name: str) -> str:
    """A name in a directory, which may be the root."""
    return f"{directory}/{name}" if directory else name
