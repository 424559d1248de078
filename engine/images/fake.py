"""A source of images for tests: what is added to it, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from engine.images import mediatype
from engine.images.config import History, ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.download import Sink
from engine.images.image import ResolvedImage, empty_image, resolved
from engine.images.manifest import Manifest
from machinefile.errors import TransferError
from machinefile.imageconfig import ImageConfig
from machinefile.platform import Platform, native
from machinefile.steps import SCRATCH, BaseReference


class FakeImageSource:
    """An ImageSource that holds its images in memory and remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """The references that were resolved."""
        self.fetched: list[str] = []
        """The digests of the blobs that were fetched."""
        self._images: dict[tuple[str, Platform], ResolvedImage] = {}
        self._every: dict[str, ResolvedImage] = {}
        """By digest: also those whose names were given to others."""
        self._blobs: dict[str, bytes] = {}

    def add(
        self,
        reference: str,
        layers: Sequence[bytes] = (),
        config: ImageConfig | None = None,
        *,
        platform: Platform | None = None,
        history: Sequence[History] = (),
    ) -> str:
        """Hold an image, lowest layer first, each an uncompressed tar; gives its manifest's digest."""
        runs_on = platform or native()
        descriptors = tuple(self._keep(layer) for layer in layers)
        configuration = ImageConfiguration(
            config or ImageConfig(),
            runs_on.architecture,
            runs_on.os,
            runs_on.variant,
            diff_ids=tuple(layer.digest for layer in descriptors),
            history=tuple(history),
        ).to_json()
        pointer = Descriptor(mediatype.OCI_CONFIG, digest_of(configuration), len(configuration))
        image = resolved(reference, Manifest(pointer, descriptors).to_json(), configuration)
        self._images[reference, runs_on] = self._every[image.digest] = image
        return image.digest

    def resolve(self, base: BaseReference) -> ResolvedImage:
        """As in ImageSource."""
        self.asked.append(base.reference)
        if base.reference == SCRATCH:
            return empty_image(base.platform)
        digest = base.reference.partition("@")[2]
        image = self._every.get(digest) if digest else self._images.get((base.reference, base.platform))
        if image is None:
            raise TransferError(f"{base.reference} does not exist for {base.platform}", code="image-not-found")
        return image

    def fetch_blob(self, image: ResolvedImage, descriptor: Descriptor, sink: Sink) -> None:
        """As in ImageSource."""
        self.fetched.append(descriptor.digest)
        sink(self._blobs[descriptor.digest])

    def _keep(self, layer: bytes) -> Descriptor:
        digest = digest_of(layer)
        self._blobs[digest] = layer
        return Descriptor(mediatype.OCI_LAYER, digest, len(layer))
