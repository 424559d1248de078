"""Records as they are kept with results, and as they come from elsewhere: for explaining why a step missed."""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping

from cache.keys import VERSION, Record, Value
from machinefile.values import dataclass

LARGE = 16 << 10
"""Bytes of JSON above which a record is kept compressed: that of a COPY lists every file."""
MAX_BYTES = 64 << 20
"""Of a record's JSON. Of a larger one (half a million files) only the result is kept."""


@dataclass(frozen=True, slots=True)
class KeptRecord:
    """A record that an earlier result was made of."""

    version: int
    """Of the keys: see cache/keys.py."""
    operation: str
    fields: Mapping[str, Value]
    instruction: str = ""
    """As it was shown to the user; empty where that is not known."""
    large: bool = False
    """Whether it is kept compressed."""


def pack(record: Record, instruction: str = "") -> dict[str, object] | None:
    """The form that the index keeps, for json.dumps; None for a record that is too large to be kept."""
    whole = record.to_json() | ({"instruction": instruction[:500]} if instruction else {})
    raw = json.dumps(whole, separators=(",", ":"), sort_keys=True).encode()
    if len(raw) <= LARGE:
        return whole
    if len(raw) > MAX_BYTES:
        return None
    import zstandard

    packed = binascii.b2a_base64(zstandard.ZstdCompressor(level=1).compress(raw), newline=False).decode()
    return {"version": VERSION, "operation": record.operation, "packed": packed}


def unpack(value: object) -> KeptRecord | None:
    """Read what `pack` gave, wherever it comes from; None for anything else, and for what is too large."""
    match value:
        case {"packed": str(packed)}:
            kept = _plain(_unpacked(packed))
            return kept and KeptRecord(kept.version, kept.operation, kept.fields, kept.instruction, large=True)
    return _plain(value)


def _plain(value: object) -> KeptRecord | None:
    match value:
        case {"version": int(version), "operation": str(operation), "fields": {**fields}, **others}:
            instruction = others.get("instruction", "")
            try:
                return KeptRecord(
                    version,
                    operation,
                    {str(name): frozen(one) for name, one in fields.items()},
                    instruction if isinstance(instruction, str) else "",
                )
            except (TypeError, RecursionError):
                return None
    return None


def frozen(value: object) -> Value:
    """A value of a record out of what json.loads gave. Raises TypeError for what no record has."""
    match value:
        case None | bool() | int() | str():
            return value
        case list():
            return tuple(map(frozen, value))
    raise TypeError(f"no record has a {type(value).__name__}")


def _unpacked(packed: str) -> object:
    import zstandard

    try:
        data = binascii.a2b_base64(packed, strict_mode=True)
        # Not what its header says it comes to: that may be a lie.
        with zstandard.ZstdDecompressor(max_window_size=MAX_BYTES).stream_reader(data) as reader:
            raw = reader.read(MAX_BYTES + 1)
        return json.loads(raw) if len(raw) <= MAX_BYTES else None
    except (binascii.Error, ValueError, zstandard.ZstdError, RecursionError):
        return None
