"""A layer's tar with another time on all that is in it, and else the same bytes, as a stream."""

from __future__ import annotations

from engine.layers.compression import CHUNK, Sink
from engine.layers.limits import LayerLimits
from engine.layers.tarheader import BLOCK, ZERO_BLOCK, parse_header, parse_pax, pax_size, refuse
from engine.layers.tarread import TarStream, truncated
from engine.layers.tarwrite import pax_blocks

MAX_TIME = 0o77777777777
"""The latest time that a tar's header holds: in the year 2242."""

_TIMES = ("mtime", "atime", "ctime")
_PAX = b"x"
_FILES = (b"0", b"7")
_OTHER_EXTENSIONS = (b"g", b"L", b"K")


def stamp(source: TarStream, out: Sink, seconds: int, limits: LayerLimits) -> None:
    """Copy a layer's uncompressed tar with `seconds` since 1970, 0 to MAX_TIME, as the time of every entry.

    What `write_layer` wrote comes out as if it had written the same entries with that time. Nothing is held beside one
    header and one chunk. Raises UntrustedDataError (`layer-...`).
    """
    field = b"%011o\0" % seconds
    size: int | None = None  # of the entry that comes, where its PAX header says it
    while True:
        where = source.offset
        block = source.exactly(BLOCK)
        if len(block) < BLOCK or block == ZERO_BLOCK:
            break
        header = parse_header(block, where)
        if header.kind == _PAX:
            if header.size > limits.max_pax:
                refuse("layer-header", header.name, f"an extension header of {header.size} bytes")
            data = _whole(source, header.size, header.name)
            records = parse_pax(data, limits)
            size = pax_size(records, header.name)
            out.write(_without_times(block, data, records))
            continue
        out.write(_stamped(block, field))
        if header.kind in _OTHER_EXTENSIONS:
            _copy(source, out, header.size + -header.size % BLOCK, header.name)
            continue
        if header.kind in _FILES:
            length = header.size if size is None else size
            _copy(source, out, length + -length % BLOCK, header.name)
        size = None
    out.write(block)
    while piece := source.piece(CHUNK):
        out.write(piece)


def _whole(source: TarStream, size: int, name: str) -> bytes:
    """That many bytes, and the padding behind them, which is passed over."""
    data = source.exactly(size)
    if len(data) < size or not source.skip(-size % BLOCK):
        truncated(name)
    return data


def _copy(source: TarStream, out: Sink, size: int, name: str) -> None:
    while size:
        piece = source.piece(min(size, CHUNK))
        if not piece:
            truncated(name)
        out.write(piece)
        size -= len(piece)


def _without_times(block: bytes, data: bytes, records: dict[str, bytes]) -> bytes:
    """A PAX header that says nothing of times, which would count for more than the field; none if it said no more."""
    if not any(name in records for name in _TIMES):
        return block + data + bytes(-len(data) % BLOCK)
    left = {name.encode("utf-8", "surrogateescape"): value for name, value in records.items() if name not in _TIMES}
    return pax_blocks(left) if left else b""


def _stamped(block: bytes, field: bytes) -> bytes:
    """A header with another time, its checksum made anew."""
    block = block[:136] + field + b"        " + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
