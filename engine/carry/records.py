"""Packs of records: what the keys of exported steps were made of, so that a miss can be explained far from where they
were built."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping

from cache.blobs import digest_of
from cache.carry.index import CacheIndex
from cache.carry.place import CachePlace
from cache.keys import VERSION, Record, Value
from engine.layers.compression import decompress
from engine.layers.limits import LayerLimits
from machinefile.errors import InterruptedBuildError, MbuildError, UntrustedDataError
from machinefile.values import dataclass

MAX_PACK_BYTES = 32 << 20
"""Of a pack, compressed."""
MAX_PLAIN_BYTES = 64 << 20
_LEVEL = 3
_MOST_DEPTH = 16


@dataclass(frozen=True, slots=True)
class RecordPack:
    """A pack, and what is in it."""

    data: bytes
    digest: str
    keys: frozenset[str]
    """Of the records; one that would make the pack larger than anybody reads is not among them."""


def pack_records(records: Mapping[str, Record]) -> RecordPack:
    """A pack of records by their definition keys. Equal records give equal bytes."""
    import zstandard

    lines: dict[str, str] = {}
    left = MAX_PLAIN_BYTES
    for key in sorted(records):
        # The fields keep their order, which is part of the key.
        line = f"{json.dumps(key)}:{json.dumps(records[key].to_json(), separators=(',', ':'))}"
        if len(line) + 2 <= left:
            left -= len(line) + 2
            lines[key] = line
    plain = "{" + ",".join(lines.values()) + "}"
    data = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(plain.encode())
    return RecordPack(data, digest_of(data), frozenset(lines))


def unpack_records(data: bytes, what: str) -> dict[str, dict[str, object]]:
    """The records of a pack, as `Record.to_json` gives them. Those that do not give the key that they are said to be
    of are left out: a pack needs no signature. So are those of another version of keys.

    Raises UntrustedDataError (`cache-invalid`); `what` names it to the user.
    """
    try:
        document = json.loads(_plain(data, what))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UntrustedDataError(f"{what} holds no records", code="cache-invalid")
    return {key: record for key, record in document.items() if _gives(record, key)}


def read_records(
    place: CachePlace,
    index: CacheIndex,
    keys: Iterable[str],
    warn: Callable[[MbuildError], None] = lambda error: None,
) -> dict[str, dict[str, object]]:
    """The records of those keys that a place has, as `Record.to_json` gives them.

    A pack that cannot be had, or is not what its digest says, is passed over, and `warn` is told: explaining must
    not fail for it. Raises InterruptedBuildError.
    """
    wanted = set(keys)
    packs = {index.entries[key].records for key in wanted if key in index.entries}
    found: dict[str, dict[str, object]] = {}
    for digest in sorted(packs & index.packs.keys()):
        what = f"the pack of records {digest} in {place.label}"
        try:
            records = unpack_records(_fetched(place, digest, index.packs[digest].size, what), what)
        except MbuildError as error:
            if isinstance(error, InterruptedBuildError):
                raise
            warn(error)
            continue
        found.update((key, record) for key, record in records.items() if key in wanted)
    return found


def _fetched(place: CachePlace, digest: str, size: int, what: str) -> bytes:
    if size > MAX_PACK_BYTES:
        raise UntrustedDataError(f"{what} is larger than {MAX_PACK_BYTES} bytes", code="cache-invalid")
    data = bytearray()
    place.fetch(digest, size, data.extend)
    if digest_of(bytes(data)) != digest:
        raise UntrustedDataError(f"{what} is damaged: it has another digest", code="digest-mismatch")
    return bytes(data)


def _plain(data: bytes, what: str) -> bytes:
    try:
        return decompress(io.BytesIO(data), LayerLimits(max_bytes=MAX_PLAIN_BYTES)).read()
    except UntrustedDataError as error:
        raise UntrustedDataError(f"{what} is damaged or too large", code="cache-invalid") from error


def _gives(record: object, key: str) -> bool:
    match record:
        case {"version": int(version), "operation": str(operation), "fields": {**fields}} if version == VERSION:
            try:
                values = tuple((str(name), _value(value)) for name, value in fields.items())
                return Record(operation, values).key() == key
            except ValueError:  # also of text that no record can hold
                return False
    return False


def _value(value: object, depth: int = 0) -> Value:
    if isinstance(value, list) and depth < _MOST_DEPTH:
        return tuple(_value(one, depth + 1) for one in value)
    if value is None or isinstance(value, (str, int)):
        return value
    raise ValueError("not a value of a record")
