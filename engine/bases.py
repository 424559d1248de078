"""Base images: found before the build, pulled when a step or an output needs them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO

from cache.growing import BlobFollower
from cache.index import Kind
from cache.results import Layer
from cache.spans import span
from cache.store import Store
from engine.blobsources import BlobSources, Offer
from engine.events import Observer
from engine.images import mediatype
from engine.images.config import ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.image import ResolvedImage
from engine.images.reference import Reference, parse_reference
from engine.images.source import ImageSource
from engine.parallel import in_parallel
from machinefile.errors import MbuildError
from machinefile.steps import SCRATCH, BaseImage, BaseReference
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.pins import Pins

PARALLEL = 4
"""Bases at a time."""


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
        pins: Pins | None = None,
    ) -> None:
        """`named` gives references that stand for others: `context:NAME` for an image given with --build-context.
        `pins` are a lock file's."""
        self._pins = pins
        self._named = named
        self._store = store
        self._source = source
        self._cancelled = cancelled
        self._found: dict[BaseReference, Base] = {}
        self._failed: dict[BaseReference, MbuildError] = {}
        self._images: dict[str, tuple[ResolvedImage, Descriptor]] = {}
        self.blobs = BlobSources(store, observer, cancelled)
        """Where layers come from: the bases', and whatever else is added to it."""
        self.blobs.add(self)

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
        """Bring a base's layer into the store: see BlobSources.pull."""
        self.blobs.pull(layer)

    def pull_all(self, base: Base, stop: threading.Event | None = None) -> None:
        """Bring all layers of a base into the store: see BlobSources.pull_all."""
        self.blobs.pull_all(base.layers, stop)

    def pulling(self, base: Base, stop: threading.Event | None = None) -> AbstractContextManager[None]:
        """As `pull_all`, while the caller reads the layers: see BlobSources.pulling."""
        return self.blobs.pulling(base.layers, stop)

    def open(self, layer: Layer) -> BinaryIO | BlobFollower:
        """A layer's blob, of a base or another: see BlobSources.open."""
        return self.blobs.open(layer)

    def offers(self, layer: Layer) -> Sequence[Offer]:
        """Where a base's layer can be had."""
        if layer.digest not in self._images:
            return ()
        image, descriptor = self._images[layer.digest]
        reference = parse_reference(image.reference)
        known = reference if isinstance(reference, Reference) else None
        return (Offer(partial(self._source.fetch_blob, image, descriptor), known),)

    def _try_to_find(self, reference: BaseReference, stop: threading.Event) -> None:
        try:
            self._found[reference] = self._find(reference)
        except MbuildError as error:
            self._failed[reference] = error

    def _find(self, reference: BaseReference) -> Base:
        if reference.reference == SCRATCH:
            return EMPTY
        with span("look up base", "base", name=reference.reference):
            return self._ask_for(reference)

    def _ask_for(self, reference: BaseReference) -> Base:
        written = self._named.get(reference.reference, reference.reference)
        if self._pins is not None:
            image = self._pins.resolve(reference, self._source.resolve)
        else:
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
            kind = mediatype.as_oci(descriptor.media_type) or mediatype.OCI_LAYER_GZIP
            layers.append(Layer(found.diff_id, descriptor.digest, descriptor.size, kind))
            self._images[descriptor.digest] = (image, descriptor)
        return Base(image.digest, tuple(layers), image)


def _scratch() -> BaseImage:
    from machinefile.imageconfig import ImageConfig

    return BaseImage("", ImageConfig())
