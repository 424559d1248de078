"""A layer's tar with another time on all that is in it, and else the same bytes, as a stream."""

from __future__ import annotations

from engine.layers.compression import CHUNK, Sink
from engine.layers.headerwrite import pax_blocks
from engine.layers.limits import LayerLimits
from engine.layers.tarheader import BLOCK, ZERO_BLOCK, parse_header, parse_pax, pax_size, pax_time, refuse
from engine.layers.tarread import TarStream, truncated

_OTHER_TIMES = ("atime", "ctime")
_TIMES = ("mtime", *_OTHER_TIMES)
_PAX = b"x"
_FILES = (b"0", b"7")
_OTHER_EXTENSIONS = (b"g", b"L", b"K")


def stamp(source: TarStream, out: Sink, seconds: int, limits: LayerLimits, *, clamp: bool = False) -> None:
    """Copy a layer's uncompressed tar with `seconds` since 1970, 0 to MAX_TIME, as the time of every entry; to `clamp`
    is to set that of those alone that are later, as GNU tar's --clamp-mtime and BuildKit's rewrite-timestamp do.

    What `write_layer` wrote comes out as if it had written the same entries with that time. Nothing is held beside one
    header and one chunk. Raises UntrustedDataError (`layer-...`).
    """
    field = b"%011o\0" % seconds
    at: float | None = None  # the time of the entry that comes, where its PAX header says it
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
            at = pax_time(records, header.name) if clamp else None
            kept = clamp and (at is None or at <= seconds)
            out.write(_without(_OTHER_TIMES if kept else _TIMES, block, data, records))
            continue
        if header.kind in _OTHER_EXTENSIONS:
            out.write(_stamped(block, field))
            _copy(source, out, header.size + -header.size % BLOCK, header.name)
            continue
        later = (header.mtime if at is None else at) > seconds
        out.write(_stamped(block, field) if later or not clamp else block)
        if header.kind in _FILES:
            length = header.size if size is None else size
            _copy(source, out, length + -length % BLOCK, header.name)
        size = at = None
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


def _without(times: tuple[str, ...], block: bytes, data: bytes, records: dict[str, bytes]) -> bytes:
    """A PAX header that says nothing of those times, which count for more than the field; none if it said no more."""
    if not any(name in records for name in times):
        return block + data + bytes(-len(data) % BLOCK)
    left = {name.encode("utf-8", "surrogateescape"): value for name, value in records.items() if name not in times}
    return pax_blocks(left) if left else b""


def _stamped(block: bytes, field: bytes) -> bytes:
    """A header with another time, its checksum made anew."""
    block = block[:136] + field + b"        " + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
