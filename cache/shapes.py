"""What an entry of the index must look like for those who read it."""

from __future__ import annotations

import re

from cache.index import Kind
from cache.records import unpack
from cache.results import seconds_of

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_usable(kind: Kind, value: object) -> bool:
    """Whether a value is one that mbuild would write; of results and variants see cache/check.py, which looks at their
    layers too."""
    match kind:
        case Kind.RECORD:
            return unpack(value) is not None
        case Kind.PAST:
            return isinstance(value, dict) and all(
                isinstance(traces, list) and all(map(_is_trace, traces)) for traces in value.values()
            )
        case Kind.BASE:
            return _is_base(value)
        case Kind.MACHINE:
            return isinstance(value, str) and value.isalnum()
        case Kind.ORIGIN:
            return isinstance(value, list) and all(isinstance(place, str) for place in value)
        case Kind.REMOTE:
            return _is_remote(value)
        case Kind.SEAL:
            return _is_seal(value)
        case Kind.DISK:
            return isinstance(value, str)
        case Kind.PROVENANCE:
            return isinstance(value, dict)
        case Kind.CHAIN:
            return _is_part(value)
        case Kind.RESULT | Kind.CONTENT | Kind.VARIANT | Kind.STAMPED:
            return True


def _is_part(value: object) -> bool:
    match value:
        case {"below": str(), "steps": [*_]}:
            return True
    return False


def _is_trace(value: object) -> bool:
    match value:
        case [str(), str(), str(), took, when]:
            return seconds_of(took) is not None and seconds_of(when) is not None
    return False


def _is_base(value: object) -> bool:
    match value:
        case {"name": str(), "platform": str()}:
            return True
    return False


def _is_remote(value: object) -> bool:
    match value:
        case [str(digest), int(), str(), str()]:
            return bool(_DIGEST.fullmatch(digest))
    return False


def _is_seal(value: object) -> bool:
    match value:
        case [int(), int(), int(), int(), str()] | [int(), int(), int(), int(), str(), str()]:
            return True
    return False
