"""Layers as they travel: gzip, zstd or plain, told apart by their first bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from engine.layers.limits import LayerLimits
from machinefile.errors import UntrustedDataError

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    import zstandard

CHUNK = 1 << 20
GZIP_LEVEL = 4
ZSTD_LEVEL = 3
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_FOREIGN = {b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_GZIP_STEP = 32 << 10
# A block of 4 bytes may stand for 128 KiB: this much input can become 32 MiB in one call, no more.
_ZSTD_STEP = 1024
_ZSTD_MAX_WINDOW = 1 << 27
_ZSTD_LAST_SMALL = 19
"""The highest level that keeps to a window of 8 MiB, and to tables of some 100 MB, by itself."""
_ZSTD_CAP = {"window_log": 23, "chain_log": 24, "hash_log": 22}
"""What that level has, for those above it."""
_MOST_MEMBERS = 16
"""Members of gzip, of 1 MiB each, that are compressed at once or wait to be written."""
_ZSTD_JOB = 8 << 20
"""Bytes that one thread takes at a time: what the usual level has by itself. Higher ones would take four times that,
and 150 MB more memory."""


class Source(Protocol):
    """Anything to read bytes from."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


class Sink(Protocol):
    """Anything to write bytes to."""

    def write(self, data: bytes, /) -> object:
        """Takes all of `data`."""
        ...


class DecompressedReader:
    """The plain bytes of a layer. Not seekable; `read` as of a binary file, `bytes_out` counts what was given."""

    def __init__(self, pieces: Iterator[bytes], limits: LayerLimits) -> None:
        self._pieces = pieces
        self._limits = limits
        self._rest = b""
        self._produced = 0
        self.bytes_out = 0

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes (all that is left when negative); none at the end.

        Raises UntrustedDataError: `layer-corrupt`, `layer-too-large`.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._produced += len(piece)
            if self._produced > self._limits.max_bytes:
                raise UntrustedDataError(
                    f"the layer is larger than {self._limits.max_bytes} bytes after decompression",
                    code="layer-too-large",
                    hint="if you trust it, raise MBUILD_MAX_LAYER_BYTES",
                )
            self._rest = piece
        given, self._rest = self._rest[:size], self._rest[size:]
        self.bytes_out += len(given)
        return given


def decompress(stream: Source, limits: LayerLimits) -> DecompressedReader:
    """Read a layer blob as plain tar bytes: gzip (any number of members), zstd (any number of frames), or plain.

    Memory stays bounded whatever the ratio. Raises UntrustedDataError: `layer-compression` for formats that
    image layers may not have; while reading `layer-corrupt` (also for a stream cut short), `layer-too-large`.
    """
    head = _read_head(stream)
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise UntrustedDataError(
                f"the layer is compressed with {name}; image layers are tar, tar+gzip or tar+zstd",
                code="layer-compression",
                hint="rebuild the image with gzip or zstd layers",
            )
    feed = _feed(head, stream)
    if head.startswith(_GZIP):
        pieces = _gunzip(feed)
    elif head.startswith(_ZSTD) or _is_skippable(head):
        pieces = _unzstd(feed)
    else:
        pieces = feed
    return DecompressedReader(pieces, limits)


def _read_head(stream: Source) -> bytes:
    head = b""
    while len(head) < 8 and (more := stream.read(CHUNK)):
        head += more
    return head


def _feed(head: bytes, stream: Source) -> Iterator[bytes]:
    if head:
        yield head
    while chunk := stream.read(CHUNK):
        yield chunk


def _corrupt(what: str) -> UntrustedDataError:
    return UntrustedDataError(
        f"the layer's {what}", code="layer-corrupt", hint="it was damaged on its way or where it is kept: pull it again"
    )


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    # ISA-L takes less than half the time of zlib. What it reads is the same, so its version does not matter.
    from isal import isal_zlib

    damage = cast("type[Exception]", isal_zlib.error)  # its types call it an instance
    # Small steps: what is left of a step is copied at the end of each member, and members may be tiny and many.
    feed = (chunk[at : at + _GZIP_STEP] for chunk in chunks for at in range(0, len(chunk), _GZIP_STEP))
    data = next(feed, b"")
    while data:
        member = isal_zlib.decompressobj(wbits=31)
        while not member.eof:
            if not data:
                data = next(feed, b"")
            if not data:
                raise _corrupt("gzip stream ends too early")
            try:
                piece = member.decompress(data, CHUNK)
            except damage as error:
                raise _corrupt(f"gzip stream is damaged ({error})") from error
            data = member.unconsumed_tail
            if piece:
                yield piece
        data = member.unused_data or next(feed, b"")


def _is_skippable(head: bytes) -> bool:
    return len(head) >= 4 and int.from_bytes(head[:4], "little") in _SKIPPABLE


class _Cursor:
    """Bytes of a feed, taken in measured pieces."""

    def __init__(self, feed: Iterator[bytes]) -> None:
        self._feed = feed
        self._data = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Up to `size` bytes, fewer only where a chunk ends; none at the end."""
        if self._at >= len(self._data):
            self._data, self._at = next(self._feed, b""), 0
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        return piece

    def put_back(self, data: bytes) -> None:
        """What was taken last and not used comes again first."""
        if self._at >= len(data):
            self._at -= len(data)
        else:  # it came from the chunk before
            self._data, self._at = data[: len(data) - self._at] + self._data, 0

    def exactly(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end."""
        found = b""
        while len(found) < size and (piece := self.take(size - len(found))):
            found += piece
        return found


def _unzstd(feed: Iterator[bytes]) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW)
    cursor = _Cursor(feed)
    while magic := cursor.exactly(4):
        if _is_skippable(magic):
            _skip_frame(cursor)
            continue
        if magic != _ZSTD:
            raise _corrupt("zstd stream is cut short or followed by something else")
        cursor.put_back(magic)
        yield from _zstd_frame(decompressor, cursor)


def _zstd_frame(decompressor: zstandard.ZstdDecompressor, cursor: _Cursor) -> Iterator[bytes]:
    import zstandard

    frame = decompressor.decompressobj()
    while not frame.eof:
        data = cursor.take(_ZSTD_STEP)
        if not data:
            raise _corrupt("zstd stream ends too early")
        try:
            piece = frame.decompress(data)
        except zstandard.ZstdError as error:
            raise _corrupt(f"zstd stream is damaged ({error})") from error
        if piece:
            yield piece
    cursor.put_back(frame.unused_data)


def _skip_frame(cursor: _Cursor) -> None:
    left = int.from_bytes(cursor.exactly(4), "little")
    while left:
        piece = cursor.take(min(left, CHUNK))
        if not piece:
            raise _corrupt("zstd stream ends too early")
        left -= len(piece)


class _Rechunker:
    """Hands on pieces of one size: where the input was cut must not show in what is compressed."""

    def __init__(self) -> None:
        self._held = bytearray()

    def add(self, data: bytes) -> Iterator[bytes]:
        self._held += data
        while len(self._held) >= CHUNK:
            piece = bytes(self._held[:CHUNK])
            del self._held[:CHUNK]
            yield piece

    def rest(self) -> bytes:
        return bytes(self._held)


class GzipWriter:
    """Compresses what is written to it: gzip members of 1 MiB of content each, with no name, no time and no operating
    system in their headers, as gunzip, Go and zlib read them one after another (RFC 1952, section 2.2).

    libdeflate is the compressor: its wheel brings its own copy, whose output depends on nothing but input and
    level. Python's zlib module is whatever zlib, zlib-ng or hardware the system has, each with other bytes.
    With a `pool` several members are compressed at once there, which changes nothing of what is written.
    """

    media_suffix = "+gzip"

    def __init__(self, out: Sink, level: int = GZIP_LEVEL, pool: Executor | None = None) -> None:
        import deflate

        self._out = out
        self._level = level
        self._compress = deflate.gzip_compress
        self._chunks = _Rechunker()
        self._pool = pool
        self._waiting: deque[Future[bytearray]] = deque()
        self._empty = True

    def write(self, data: bytes) -> int:
        """Takes all of `data`."""
        for piece in self._chunks.add(data):
            self._add(piece)
        return len(data)

    def finish(self) -> None:
        """Write the end; nothing may be written afterwards. Does not close `out`."""
        rest = self._chunks.rest()
        if rest or self._empty:
            self._add(rest)
        self._drain(0)

    def _add(self, piece: bytes) -> None:
        self._empty = False
        if self._pool is None:
            self._out.write(bytes(self._compress(piece, self._level)))
        else:
            self._waiting.append(self._pool.submit(self._compress, piece, self._level))
            self._drain(_MOST_MEMBERS)

    def _drain(self, left: int) -> None:
        while len(self._waiting) > left:
            self._out.write(bytes(self._waiting.popleft().result()))


class ZstdWriter:
    """Compresses what is written to it into one zstd frame with a checksum: equal input gives equal bytes with the same
    version of zstd, however many threads work on it.

    zstd cuts its input into jobs by level alone once it has any worker thread; without one it makes other bytes, so
    there is always one. The window stays within the 8 MiB that RFC 8878 wants every reader to have.
    """

    media_suffix = "+zstd"

    def __init__(self, out: Sink, level: int = ZSTD_LEVEL, threads: int = 1) -> None:
        import zstandard

        self._out = out
        cap = _ZSTD_CAP if level > _ZSTD_LAST_SMALL else {}
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, threads=max(1, threads), job_size=_ZSTD_JOB, write_checksum=True, write_content_size=False, **cap
        )
        self._chunks = _Rechunker()
        self._object = zstandard.ZstdCompressor(compression_params=parameters).compressobj()

    def write(self, data: bytes) -> int:
        """Takes all of `data`."""
        for piece in self._chunks.add(data):
            self._put(self._object.compress(piece))
        return len(data)

    def finish(self) -> None:
        """Write the end; nothing may be written afterwards. Does not close `out`."""
        self._put(self._object.compress(self._chunks.rest()))
        self._put(self._object.flush())

    def _put(self, data: bytes) -> None:
        if data:
            self._out.write(data)
