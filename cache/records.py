"""Records as they are kept with results, and as they come from elsewhere: for explaining why a step missed."""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterator, Mapping
from itertools import chain

from cache.keys import VERSION, Long, Record, Value
from machinefile.values import dataclass

LARGE = 16 << 10
"""Bytes of JSON above which a record is kept compressed: that of a COPY lists every file."""
MAX_BYTES = 64 << 20
"""Of a record's JSON. Of a larger one (half a million files) only the result is kept."""

_AT_ONCE = 2000
"""Values of a Long that become text at once."""
_FEW = 50
"""Values of a tuple, one of which may be a Long."""


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
    texts = _texts(whole)
    small, size = [], 0
    while size <= LARGE:
        text = next(texts, None)
        if text is None:
            return whole
        small.append(text)
        size += len(text)
    import zstandard

    packer = zstandard.ZstdCompressor(level=1).compressobj()
    packed, size = [], 0
    for text in chain(small, texts):
        packed.append(packer.compress(text))
        size += len(text)
        if size > MAX_BYTES:
            return None
    packed.append(packer.flush())
    packed_text = binascii.b2a_base64(b"".join(packed), newline=False).decode()
    return {"version": VERSION, "operation": record.operation, "packed": packed_text}


def _texts(value: object) -> Iterator[bytes]:
    """JSON in pieces: that of a COPY of very many files is larger than all else that is known of them."""
    if isinstance(value, dict):
        for number, name in enumerate(sorted(value)):
            yield b"%s%s:" % (b"," if number else b"{", json.dumps(name).encode())
            yield from _texts(value[name])
        yield b"}" if value else b"{}"
    elif isinstance(value, Long):
        for at in range(0, len(value), _AT_ONCE):
            yield (b"," if at else b"[") + _text(value[at : at + _AT_ONCE])[1:-1]
        yield b"]" if value else b"[]"
    elif isinstance(value, tuple) and len(value) <= _FEW:
        for number, one in enumerate(value):
            yield b"," if number else b"["
            yield from _texts(one)
        yield b"]" if value else b"[]"
    else:
        yield _text(value)


def _text(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


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
