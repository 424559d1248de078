"""The layers of a build brought into the store when something needs their bytes: bases', and those of other caches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from cache.index import Kind
from cache.results import Layer
from cache.store import Store
from engine.blobsources import PARALLEL, BlobSources
from engine.images.descriptor import Descriptor
from engine.layerstore import LayerStore
from engine.output.compress import Compression, Compressor
from engine.parallel import in_parallel
from machinefile.errors import HostError, StoreError, TransferError

if TYPE_CHECKING:
    from engine.carry.carried import CarriedResults

_MAGIC = {Compressor.GZIP: b"\x1f\x8b", Compressor.ZSTD: b"\x28\xb5\x2f\xfd", Compressor.NONE: b""}


class LostLayerError(TransferError):
    """A layer that another cache promised cannot be had, or is not what it was said to be: what it is the result of
    must be made here. Never leaves the driver."""

    def __init__(self, layer: Layer, reason: str) -> None:
        super().__init__(reason, code="cache-layer-lost")
        self.layer = layer


class LayerSupply:
    """Where the layers of one build come from. Threads may share it."""

    def __init__(
        self,
        store: Store,
        blobs: BlobSources,
        layers: LayerStore,
        carried: CarriedResults,
        cancelled: threading.Event | None = None,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._layers = layers
        self._carried = carried
        self._cancelled = cancelled

    def is_here(self, layer: Layer) -> bool:
        """Whether a layer is in the store, and is what it should be."""
        return not self._carried.is_waiting(layer) and self._store.blobs.is_sound(layer.digest, layer.size)

    def bring(
        self, layers: Sequence[Layer], stop: threading.Event | None = None, below: Sequence[Layer] | None = None
    ) -> None:
        """Have layers in the store, several at a time, and checked. `below` is given for those that are going to be
        read on top of it: the disks that steps want are made at once.

        Raises LostLayerError for a layer of another cache; TransferError, UntrustedDataError for one of a base;
        StoreError, InterruptedBuildError.
        """
        stop = stop or self._cancelled
        wanted = list({layer: None for layer in layers if not self.is_here(layer)})
        in_parallel([partial(self._bring, layer, below is None) for layer in wanted], PARALLEL, stop)
        for number, layer in enumerate(layers):
            if below is not None and self._carried.is_waiting(layer):
                self._check(layer, (*below, *layers[:number]))

    def check(self, layers: Sequence[Layer]) -> None:
        """Fetch and check those of an image's layers that nobody has looked at, and whose content nobody vouches for.
        Raises as `bring`."""
        self.bring(
            [layer for layer in layers if self._carried.is_waiting(layer) and not self._carried.is_signed(layer)]
        )

    def all_checked(self, layers: Sequence[Layer]) -> bool:
        """Whether all are what they should be, as far as they are here."""
        return not any(map(self._carried.is_waiting, layers))

    def packed(self, layer: Layer, compression: Compression) -> Descriptor | None:
        """A layer's blob as it is elsewhere, or was fetched from there, if compressing it here gave the same bytes."""
        kind = compression.compressor
        if layer.media_type != kind.media_type or self._carried.caches.packing(layer) != compression.identity:
            return None
        if self.is_here(layer):
            with self._store.blobs.open(layer.digest) as blob:
                if not blob.read(4).startswith(_MAGIC[kind]):
                    return None
            self._store.index.put(Kind.VARIANT, compression.key(layer.diff_id), [layer.digest, layer.size])
        return Descriptor(kind.media_type, layer.digest, layer.size)

    def opener(self, layers: Sequence[Layer]) -> Opener:
        """What opens the blobs of an image with these layers, by their digests."""
        self._blobs.remember([layer for layer in layers if not self.is_here(layer)])
        return Opener(self, self._store, layers)

    def _bring(self, layer: Layer, check: bool, stop: threading.Event) -> None:
        try:
            self._blobs.pull(layer, stop)
        except (TransferError, HostError) as error:
            if not self._carried.is_waiting(layer) or (isinstance(error, StoreError) and error.code != "blob-missing"):
                raise
            raise LostLayerError(layer, error.message) from error
        if check and self._carried.is_waiting(layer):
            self._check(layer, None)

    def _check(self, layer: Layer, below: tuple[Layer, ...] | None) -> None:
        try:
            self._layers.check(layer, below)
        except TransferError as error:
            if not self._store.blobs.verify(layer.digest):  # it was damaged here
                self._store.blobs.drop(layer.digest)
            raise LostLayerError(layer, error.message) from error
        self._carried.settled(layer)


class Opener:
    """Opens the blobs of an image; what is not here is fetched first. Threads may share it."""

    def __init__(self, supply: LayerSupply, store: Store, layers: Sequence[Layer]) -> None:
        self._supply = supply
        self._store = store
        self._layers = {layer.digest: layer for layer in layers}

    def __call__(self, digest: str) -> BinaryIO:
        """Raises as `LayerSupply.bring`, and StoreError (`blob-missing`)."""
        if digest in self._layers:
            self._supply.bring([self._layers[digest]])
        return self._store.blobs.open(digest)
