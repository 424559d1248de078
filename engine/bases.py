"""Base images: found before the build, pulled when a step or an output needs them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from cache.results import Layer
from cache.store import Store
from engine.events import Note, Observer
from engine.images import mediatype
from engine.images.config import ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.image import ResolvedImage
from engine.images.source import ImageSource
from machinefile.errors import StoreError
from machinefile.steps import SCRATCH, BaseImage, BaseReference

_OCI_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": mediatype.OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": mediatype.OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": mediatype.OCI_LAYER_ZSTD,
}
"""An OCI manifest lists layers by OCI's types; the bytes are the same."""


@dataclass(frozen=True, slots=True)
class Base:
    """What a chain of steps begins with."""

    digest: str
    """Of the manifest for the platform; empty for scratch."""
    layers: tuple[Layer, ...]
    """Lowest first; their blobs may not be in the store yet."""
    image: ResolvedImage | None = field(default=None, compare=False)
    """Where they can be had; None for scratch."""

    @property
    def configuration(self) -> ImageConfiguration | None:
        """The base's whole configuration; None for scratch."""
        return self.image.configuration if self.image is not None else None

    def is_stored(self, store: Store) -> bool:
        """Whether all its layers are in the store."""
        return all(store.blobs.has(layer.digest, layer.size) for layer in self.layers)


EMPTY = Base("", ())


class Bases:
    """The bases of one build."""

    def __init__(
        self, store: Store, source: ImageSource, observer: Observer, cancelled: threading.Event | None = None
    ) -> None:
        self._store = store
        self._source = source
        self._observer = observer
        self._cancelled = cancelled
        self._found: dict[BaseReference, Base] = {}
        self._blobs: dict[str, tuple[ResolvedImage, Descriptor]] = {}

    def lookup(self, reference: BaseReference) -> BaseImage:
        """What resolving a Machinefile asks: which image a name stands for now. Reads no layers.

        Raises UsageError, TransferError or UntrustedDataError.
        """
        base = self.get(reference)
        return BaseImage(base.digest, base.image.base.config) if base.image is not None else _scratch()

    def get(self, reference: BaseReference) -> Base:
        """The base of that name, as it was found first in this build."""
        if reference not in self._found:
            self._found[reference] = self._find(reference)
        return self._found[reference]

    def pull(self, layer: Layer) -> None:
        """Bring a base's layer into the store, unless it is there; another process that does so is waited for.

        Raises TransferError, UntrustedDataError, StoreError.
        """
        if self._store.blobs.has(layer.digest, layer.size):
            return
        if layer.digest not in self._blobs:
            raise StoreError(
                f"the store has lost the layer {layer.digest}",
                code="blob-missing",
                hint="build again: what is missing is made anew",
            )
        image, descriptor = self._blobs[layer.digest]

        def waiting() -> None:
            self._observer(Note(f"waiting for another mbuild that pulls {layer.digest}"))

        with self._store.lock(f"blob {layer.digest}", cancelled=self._cancelled, waiting=waiting):
            if not self._store.blobs.has(layer.digest, layer.size):
                with self._store.blobs.writer(layer.digest) as writer:
                    self._source.fetch_blob(image, descriptor, writer.write)

    def pull_all(self, base: Base) -> None:
        """Bring all layers of a base into the store."""
        for layer in base.layers:
            self.pull(layer)

    def _find(self, reference: BaseReference) -> Base:
        if reference.reference == SCRATCH:
            return EMPTY
        image = self._source.resolve(reference)
        # Kept, so that a base named by its digest needs no registry the next time.
        self._store.blobs.put(image.manifest_bytes)
        self._store.blobs.put(image.configuration_bytes)
        layers = []
        for found in image.layers:
            descriptor = found.descriptor
            kind = _OCI_TYPES.get(descriptor.media_type, descriptor.media_type) or mediatype.OCI_LAYER_GZIP
            layers.append(Layer(found.diff_id, descriptor.digest, descriptor.size, kind))
            self._blobs[descriptor.digest] = (image, descriptor)
        return Base(image.digest, tuple(layers), image)


def _scratch() -> BaseImage:
    from machinefile.imageconfig import ImageConfig

    return BaseImage("", ImageConfig())
