"""Layers as they go out: compressed once for each way of doing so, then remembered."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from cache.blobs import BlobWriter
from cache.index import Kind
from cache.results import Layer
from cache.spans import span
from cache.store import Store
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.layers.compression import (
    CHUNK,
    GZIP_LEVEL,
    ZSTD_LEVEL,
    GzipWriter,
    Source,
    ZstdWriter,
    decompress,
)
from engine.layers.limits import LayerLimits
from machinefile.errors import InterruptedBuildError, UntrustedDataError
from machinefile.values import dataclass

if TYPE_CHECKING:
    from concurrent.futures import Executor

_MOST_WORKERS = ((6, 4), (12, 2))
"""Up to which level of zstd how many threads work at once: one takes 40 MB at level 3, 100 at 12, 220 above."""


class Compressor(Enum):
    """What layers are compressed with."""

    GZIP = "gzip"
    ZSTD = "zstd"
    NONE = "none"

    @property
    def media_type(self) -> str:
        """Of a layer so compressed."""
        return _MEDIA_TYPES[self]

    @property
    def levels(self) -> range:
        """The levels that it knows; none for NONE."""
        return _LEVELS[self]

    @property
    def default_level(self) -> int:
        """The level taken when none is asked for."""
        return _DEFAULT_LEVELS[self]


_MEDIA_TYPES = {
    Compressor.GZIP: mediatype.OCI_LAYER_GZIP,
    Compressor.ZSTD: mediatype.OCI_LAYER_ZSTD,
    Compressor.NONE: mediatype.OCI_LAYER,
}
_LEVELS = {Compressor.GZIP: range(10), Compressor.ZSTD: range(1, 23), Compressor.NONE: range(0)}
_DEFAULT_LEVELS = {Compressor.GZIP: GZIP_LEVEL, Compressor.ZSTD: ZSTD_LEVEL, Compressor.NONE: 0}


@dataclass(frozen=True, slots=True)
class Compression:
    """A way to compress layers. Equal layers give equal bytes for it, on every machine."""

    compressor: Compressor = Compressor.GZIP
    level: int = GZIP_LEVEL

    @property
    def identity(self) -> str:
        """What decides the bytes: another release of the compressor may make others."""
        return f"{self.compressor.value}-{self.level}-{_release(self.compressor)}"

    def key(self, diff_id: str) -> str:
        """Under which the index remembers the blob."""
        return f"{self.identity}:{diff_id}"


DEFAULT = Compression()
PLAIN = Compression(Compressor.NONE, 0)


def _release(compressor: Compressor) -> str:
    match compressor:
        case Compressor.GZIP:
            import deflate

            return f"deflate{deflate.__version__}"
        case Compressor.ZSTD:
            import zstandard

            return "zstd" + ".".join(map(str, zstandard.ZSTD_VERSION))
        case Compressor.NONE:
            return "plain"


class Supply(Protocol):
    """Where layers come from that are not in the store."""

    def packed(self, layer: Layer, compression: Compression) -> Descriptor | None:
        """The layer's own blob, wherever it is, if it is so compressed."""
        ...

    def bring(self, layers: Sequence[Layer]) -> None:
        """Have them in the store."""
        ...


def packed(
    layers: Sequence[Layer],
    store: Store,
    compression: Compression = DEFAULT,
    cancelled: threading.Event | None = None,
    supply: Supply | None = None,
) -> tuple[Descriptor, ...]:
    """The descriptors of layers so compressed, several at a time; what is missing is made and put into the store.

    A layer that is compressed already is compressed anew, unless `supply` knows that this would give the same bytes;
    those need not be in the store then. Without `supply` the blobs of all layers must be.
    Raises UntrustedDataError (`diff-id-mismatch`, `layer-...`), StoreError, InterruptedBuildError, and as `supply`.
    """
    found = {layer.diff_id: _known(layer, store, compression) for layer in layers}
    if supply is not None:
        for layer in layers:
            found[layer.diff_id] = found[layer.diff_id] or supply.packed(layer, compression)
        supply.bring([layer for layer in layers if found[layer.diff_id] is None])
    missing = {layer.diff_id: layer for layer in layers if found[layer.diff_id] is None}
    if missing:
        found |= _made(list(missing.values()), store, compression, cancelled or threading.Event())
    return tuple(one for layer in layers if (one := found[layer.diff_id]) is not None)


def _made(
    missing: Sequence[Layer], store: Store, compression: Compression, cancelled: threading.Event
) -> dict[str, Descriptor | None]:
    from concurrent.futures import ThreadPoolExecutor

    # The index stays with this thread; the workers only read and write blobs.
    workers = _workers(compression)
    with ThreadPoolExecutor(os.cpu_count(), "gzip") as members, ThreadPoolExecutor(workers, "compress") as pool:
        share = max(1, workers // len(missing))
        work = _Work(store, compression, share, members, cancelled)
        started = {layer.diff_id: pool.submit(work.pack, layer) for layer in missing}
        found: dict[str, Descriptor | None] = {}
        for diff_id, made in started.items():
            blob = found[diff_id] = made.result()
            store.index.put(Kind.VARIANT, compression.key(diff_id), [blob.digest, blob.size])
    return found


def known_packing(layer: Layer, store: Store, compression: Compression = DEFAULT) -> Descriptor | None:
    """The descriptor of a layer so compressed, if it is in the store."""
    return _known(layer, store, compression)


def _workers(compression: Compression) -> int:
    """How many threads may compress at once, so that memory stays bounded whatever the layers' number and size."""
    level = compression.level if compression.compressor is Compressor.ZSTD else 0
    most = next((workers for highest, workers in _MOST_WORKERS if level <= highest), 1)
    return min(os.cpu_count() or 1, most)


def _known(layer: Layer, store: Store, compression: Compression) -> Descriptor | None:
    kind = compression.compressor
    if kind is Compressor.NONE and layer.digest == layer.diff_id:
        return Descriptor(kind.media_type, layer.digest, layer.size)
    match store.index.get(Kind.VARIANT, compression.key(layer.diff_id)):
        case [str(digest), int(size)] if store.blobs.is_sound(digest, size):
            return Descriptor(kind.media_type, digest, size)
    return None


@dataclass(frozen=True, slots=True)
class _Work:
    store: Store
    compression: Compression
    threads: int
    """For each layer, of zstd."""
    members: Executor
    """For the members of gzip, of all layers."""
    cancelled: threading.Event

    def pack(self, layer: Layer) -> Descriptor:
        kind = self.compression.compressor
        with (
            span("compress", "layer", layer=layer.diff_id),
            self.store.blobs.open(layer.digest) as blob,
            self.store.blobs.writer() as writer,
        ):
            plain = PlainLayer(layer, blob, self.cancelled)
            self._write(plain, writer)
            plain.check()
        return Descriptor(kind.media_type, writer.digest, writer.size)

    def _write(self, plain: PlainLayer, writer: BlobWriter) -> None:
        level = self.compression.level
        compressor: GzipWriter | ZstdWriter | None = None
        match self.compression.compressor:
            case Compressor.GZIP:
                compressor = GzipWriter(writer, level, self.members)
            case Compressor.ZSTD:
                compressor = ZstdWriter(writer, level, self.threads)
        while chunk := plain.read(CHUNK):
            (compressor or writer).write(chunk)
        if compressor is not None:
            compressor.finish()


def _plain(layer: Layer, blob: Source) -> Source:
    # What a plain layer begins with is a file's name, which could look like the start of a compressed stream.
    return blob if layer.digest == layer.diff_id else decompress(blob, LayerLimits.from_environment())


class PlainLayer:
    """A layer's plain tar out of its blob, whose digest is taken as it is read; reading stops when the build does."""

    def __init__(self, layer: Layer, blob: Source, cancelled: threading.Event) -> None:
        import hashlib

        self._layer = layer
        self._source = _plain(layer, blob)
        self._cancelled = cancelled
        self._hash = hashlib.sha256()

    def read(self, size: int = CHUNK, /) -> bytes:
        """Up to `size` bytes, none at the end. Raises InterruptedBuildError."""
        if self._cancelled.is_set():
            raise InterruptedBuildError
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def check(self) -> None:
        """At the end: raises UntrustedDataError (`diff-id-mismatch`) unless it was what the layer says."""
        digest = "sha256:" + self._hash.hexdigest()
        if digest != self._layer.diff_id:
            raise UntrustedDataError(
                f"the layer {self._layer.digest} is not what its image says: its content is {digest}, "
                f"not {self._layer.diff_id}",
                code="diff-id-mismatch",
                hint="the image is damaged: pull it again, or build it again",
            )
