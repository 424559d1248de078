"""Base images: found before the build, pulled when a step or an output needs them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import BinaryIO

from cache.growing import BlobFollower, GrowingBlob
from cache.index import Kind
from cache.results import Layer
from cache.store import Store
from engine.events import Note, Observer
from engine.images import mediatype
from engine.images.config import ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.image import ResolvedImage
from engine.images.reference import Reference, parse_reference
from engine.images.source import ImageSource
from engine.origins import remember
from engine.parallel import Background, in_parallel
from machinefile.errors import InterruptedBuildError, MbuildError, StoreError
from machinefile.steps import SCRATCH, BaseImage, BaseReference

PARALLEL = 4
"""Layers, or bases, at a time."""

_OCI_TYPES = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": mediatype.OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": mediatype.OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": mediatype.OCI_LAYER_ZSTD,
    # Foreign layers are in our store like any other once they are pulled, and no URL goes with them.
    "application/vnd.docker.image.rootfs.foreign.diff.tar": mediatype.OCI_LAYER,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": mediatype.OCI_LAYER_GZIP,
    "application/vnd.oci.image.layer.nondistributable.v1.tar": mediatype.OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": mediatype.OCI_LAYER_GZIP,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": mediatype.OCI_LAYER_ZSTD,
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
        """Whether all its layers are in the store, and sound."""
        return all(store.blobs.is_sound(layer.digest, layer.size) for layer in self.layers)


EMPTY = Base("", ())


class Bases:
    """The bases of one build."""

    def __init__(
        self,
        store: Store,
        source: ImageSource,
        observer: Observer,
        cancelled: threading.Event | None = None,
        named: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`named` gives references that stand for others: `context:NAME` for an image given with --build-context."""
        self._named = named
        self._store = store
        self._source = source
        self._observer = observer
        self._cancelled = cancelled
        self._found: dict[BaseReference, Base] = {}
        self._failed: dict[BaseReference, MbuildError] = {}
        self._blobs: dict[str, tuple[ResolvedImage, Descriptor]] = {}
        self._arriving: dict[str, GrowingBlob] = {}
        self._arriving_lock = threading.Lock()

    def lookup(self, reference: BaseReference) -> BaseImage:
        """What resolving a Machinefile asks: which image a name stands for now. Reads no layers.

        Raises UsageError, TransferError or UntrustedDataError.
        """
        base = self.get(reference)
        return base.image.base if base.image is not None else _scratch()

    def get(self, reference: BaseReference) -> Base:
        """The base of that name, as it was found first in this build."""
        if reference in self._failed:
            raise self._failed.pop(reference)
        if reference not in self._found:
            self._found[reference] = self._find(reference)
        return self._found[reference]

    def prefetch(self, references: Iterable[BaseReference]) -> None:
        """Find several bases at once. What went wrong with one is raised when that one is asked for."""
        wanted = [reference for reference in dict.fromkeys(references) if reference not in self._found]
        if len(wanted) > 1:
            in_parallel([partial(self._try_to_find, reference) for reference in wanted], PARALLEL, self._cancelled)

    def pull(self, layer: Layer) -> None:
        """Bring a base's layer into the store, unless it is there; another process that does so is waited for.

        Raises TransferError, UntrustedDataError, StoreError.
        """
        if not self._store.blobs.is_sound(layer.digest, layer.size):
            self._fetch(layer, None, threading.Event())
            self._remember(layer)

    def pull_all(self, base: Base, stop: threading.Event | None = None) -> None:
        """Bring all layers of a base into the store, a few at a time; the first failure stops the others, and so
        does `stop`.

        Raises as `pull`, and InterruptedBuildError.
        """
        wanted = self._missing(base)
        in_parallel([partial(self._fetch, layer, None) for layer in wanted], PARALLEL, stop or self._cancelled)
        for layer in wanted:
            self._remember(layer)

    @contextmanager
    def pulling(self, base: Base, stop: threading.Event | None = None) -> Iterator[None]:
        """As `pull_all`, while the caller reads the layers (see `open`) as they come; leaving waits for the rest.

        A layer that comes for another base already is waited for, and read as it comes for that one. When both fail,
        what the pull failed of is raised: it is why the other did.
        """
        wanted = self._missing(base)
        with self._arriving_lock:
            arriving = {layer.digest: GrowingBlob() for layer in wanted if layer.digest not in self._arriving}
            self._arriving.update(arriving)

        def end() -> None:  # also for those that never began
            for blob in arriving.values():
                blob.end()

        tasks = [partial(self._fetch, layer, arriving.get(layer.digest)) for layer in wanted]
        try:
            with Background(tasks, PARALLEL, stop or self._cancelled, end):
                yield
        finally:
            for digest, blob in arriving.items():
                with self._arriving_lock:
                    del self._arriving[digest]
                blob.close()
        for layer in wanted:
            self._remember(layer)

    def open(self, layer: Layer) -> BinaryIO | BlobFollower:
        """A layer's blob, compressed or not: out of the store, or as it comes. What nobody pulls yet is pulled first.

        Raises as `pull`; InterruptedBuildError when what is on its way does not arrive.
        """
        arriving = self._arriving.get(layer.digest)
        if arriving is not None:
            if (follower := arriving.open()) is not None:
                return follower
            if not self._store.blobs.has(layer.digest, layer.size):
                raise InterruptedBuildError
        self.pull(layer)
        return self._store.blobs.open(layer.digest)

    def _missing(self, base: Base) -> list[Layer]:
        sound = self._store.blobs.is_sound
        return list({layer.digest: layer for layer in base.layers if not sound(layer.digest, layer.size)}.values())

    def _fetch(self, layer: Layer, growing: GrowingBlob | None, stop: threading.Event) -> None:
        if layer.digest not in self._blobs:
            raise StoreError(
                f"the store has lost the layer {layer.digest}",
                code="blob-missing",
                hint="build again: what is missing is made anew",
            )
        image, descriptor = self._blobs[layer.digest]

        def waiting() -> None:
            self._observer(Note(f"waiting for another pull of {layer.digest}"))

        try:
            with self._store.lock(f"blob {layer.digest}", cancelled=self._cancelled, waiting=waiting):
                if not self._store.blobs.is_sound(layer.digest, layer.size):
                    with self._store.blobs.writer(layer.digest, growing) as writer:

                        def sink(data: bytes) -> None:
                            if stop.is_set():
                                raise InterruptedBuildError
                            writer.write(data)

                        self._source.fetch_blob(image, descriptor, sink)
        finally:
            if growing is not None:
                growing.end()

    def _remember(self, layer: Layer) -> None:
        reference = parse_reference(self._blobs[layer.digest][0].reference)
        if isinstance(reference, Reference):
            remember(self._store, [layer.digest], reference)

    def _try_to_find(self, reference: BaseReference, stop: threading.Event) -> None:
        try:
            self._found[reference] = self._find(reference)
        except MbuildError as error:
            self._failed[reference] = error

    def _find(self, reference: BaseReference) -> Base:
        if reference.reference == SCRATCH:
            return EMPTY
        written = self._named.get(reference.reference, reference.reference)
        image = self._source.resolve(replace(reference, reference=written))
        # Kept, so that a base named by its digest needs no registry the next time.
        self._store.blobs.put(image.manifest_bytes)
        self._store.blobs.put(image.configuration_bytes)
        if self._store.index.get(Kind.BASE, image.digest) is None:
            called = {"name": written, "platform": str(reference.platform)}
            self._store.index.put(Kind.BASE, image.digest, called)
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
