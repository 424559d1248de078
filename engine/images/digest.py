"""Digests: the names of blobs. One form only, so that a digest from elsewhere can never be a path."""

from __future__ import annotations

import hashlib
import re

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: str) -> bool:
    """Whether the text is `sha256:` and 64 lower-case hexadecimal digits, and nothing else."""
    return _DIGEST.fullmatch(text) is not None


def digest_of(data: bytes) -> str:
    """The digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def hex_part(digest: str) -> str:
    """What stands after `sha256:`, safe as a file's name. The digest must have passed `is_digest`."""
    return digest.partition(":")[2]


def short(digest: str) -> str:
    """The first twelve digits, as people compare them."""
    return hex_part(digest)[:12]
