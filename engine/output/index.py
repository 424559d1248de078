"""Images for several platforms behind one digest: an image index. Source: OCI image spec, image-index.md."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from cache.store import Store
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.manifest import Index, Manifest
from engine.output.annotations import Annotations
from engine.output.compress import Supply
from engine.output.image import BuiltImage, keep_name, variant
from engine.output.kinds import OutputSpec
from machinefile.imageconfig import Pairs
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class BuiltAttestation:
    """A manifest that is about an image, in the store with all that it names."""

    line: Descriptor
    """As an index lists it."""
    manifest: Manifest

    def below(self) -> tuple[Descriptor, ...]:
        """Every blob that it is made of, the manifest left out."""
        return (self.manifest.config, *self.manifest.layers)


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """An index whose images are in the store, as far as those say."""

    digest: str
    document: Index
    size: int
    """Bytes of the index."""
    images: tuple[BuiltImage, ...]
    """In the order of its lines."""
    attestations: tuple[BuiltAttestation, ...] = ()
    """What is said about them, after them in the order of its lines."""

    @property
    def media_type(self) -> str:
        """Of the index."""
        return self.document.media_type

    def below(self) -> tuple[Descriptor, ...]:
        """Every blob and manifest that it is made of, itself left out, each once."""
        found: dict[str, Descriptor] = {}
        parts: tuple[BuiltImage | BuiltAttestation, ...] = (*self.images, *self.attestations)
        for part, line in zip(parts, self.document.manifests, strict=True):
            found.update({blob.digest: blob for blob in (*part.below(), line)})
        return tuple(found.values())

    def keep(self, name: str, store: Store) -> None:
        """Give it a name in the store. Raises StoreError."""
        keep_name(name, self.digest, self.size, self.media_type, store)


Built = BuiltImage | BuiltIndex
"""What a build comes to: for one platform a lone image."""


def gather(images: Sequence[BuiltImage], annotations: Annotations, store: Store) -> Built:
    """The image itself if there is one; else an index of them, put into the store."""
    if len(images) == 1:
        return images[0]
    lines = [_line(image, annotations.of_descriptor(image.platform)) for image in images]
    return _kept(Index(tuple(lines), annotations=annotations.of_index()), images, store)


def with_attestations(
    built: Built, attestations: Sequence[BuiltAttestation], annotations: Annotations, store: Store
) -> BuiltIndex:
    """An index of what was built and of what is said about it, put into the store. The images stay as they are."""
    if isinstance(built, BuiltIndex):
        lines: Sequence[Descriptor] = built.document.manifests
        named, kind = built.document.annotations, built.media_type
    else:
        lines = [_line(built, annotations.of_descriptor(built.platform))]
        named, kind = annotations.of_index(), mediatype.OCI_INDEX
    index = Index((*lines, *(one.line for one in attestations)), kind, named)
    return replace(_kept(index, built.images, store), attestations=tuple(attestations))


def is_whole(built: Built, store: Store) -> bool:
    """Whether all that it is made of is in the store."""
    return all(store.blobs.has(blob.digest, blob.size) for blob in built.below())


def variant_of(
    built: Built,
    output: OutputSpec,
    store: Store,
    cancelled: threading.Event | None = None,
    supply: Supply | None = None,
) -> Built:
    """What was built as an output wants it: see `variant`, which this is for each image. Raises as that does."""
    if isinstance(built, BuiltImage):
        return variant(built, output, store, cancelled, supply)
    images = [variant(image, output, store, cancelled, supply) for image in built.images]
    added = output.annotations
    lines = [
        _line(image, _merged(line.annotations, added.of_descriptor(image.platform)))
        for image, line in zip(images, built.document.manifests, strict=True)
    ]
    kind = built.media_type if output.oci_media_types else mediatype.DOCKER_INDEX
    index = Index(tuple(lines), kind, _merged(built.document.annotations, added.of_index()))
    return built if index == built.document else _kept(index, images, store)


def _line(image: BuiltImage, annotations: Pairs) -> Descriptor:
    return Descriptor(
        image.media_type,
        image.digest,
        image.size,
        image.platform,
        annotations,
        os_version=image.os_version,
        os_features=image.os_features,
    )


def _merged(annotations: Pairs, over: Pairs) -> Pairs:
    return tuple(sorted({**dict(annotations), **dict(over)}.items()))


def _kept(index: Index, images: Sequence[BuiltImage], store: Store) -> BuiltIndex:
    data = index.to_json()
    return BuiltIndex(store.blobs.put(data), index, len(data), tuple(images))
