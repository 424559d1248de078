"""An image that a rebuild is compared with, and what of two images differs beside their files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import fields
from typing import BinaryIO, Protocol

from cache.growing import BlobFollower
from cache.results import Layer
from cache.store import Store
from engine.bases import Bases
from engine.events import Observer
from engine.images import mediatype
from engine.images.config import History, ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.image import ResolvedImage, resolved
from engine.images.reference import Reference, parse_reference
from engine.images.selection import select
from engine.images.source import ImageSource
from engine.verify.difference import FieldDifference
from machinefile.errors import StoreError, UsageError
from machinefile.platform import Platform
from machinefile.steps import BaseReference
from machinefile.values import dataclass

_DIGEST = "sha256:"
_SHOWN = ("config", "architecture", "os", "variant", "created", "author", "os_version", "os_features", "inline_cache")


class Opener(Protocol):
    """Opens the blobs of an image's layers."""

    def __call__(self, layer: Layer, /) -> AbstractContextManager[BinaryIO | BlobFollower]:
        """The blob, as it is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Image:
    """One image for one platform, and where its layers are."""

    name: str
    image: ResolvedImage
    layers: tuple[Layer, ...]
    open: Opener

    def steps(self) -> tuple[tuple[History, Layer | None], ...]:
        """The lines of its history, each with the layer that it says it made; of an image whose history does not match
        its layers the layers alone."""
        history = self.image.configuration.history
        if sum(not line.empty_layer for line in history) != len(self.layers):
            return tuple((History(), layer) for layer in self.layers)
        layers = iter(self.layers)
        return tuple((line, None if line.empty_layer else next(layers)) for line in history)


def stored_image(store: Store, name: str, digest: str, platform: Platform) -> Image:
    """An image of the store by its digest. Raises StoreError `blob-missing`, TransferError, UntrustedDataError."""

    def read(descriptor: Descriptor) -> bytes:
        return store.blobs.read(descriptor.digest)

    root = Descriptor("", digest, len(store.blobs.read(digest)))
    _, manifest, data = select(root, platform, read, name)
    image = resolved(name, data, store.blobs.read(manifest.config.digest))
    return Image(name, image, _layers(image), lambda layer: store.blobs.open(layer.digest))


def find_image(
    name: str, platform: Platform, store: Store, scratch: Store, source: ImageSource, observer: Observer
) -> Image:
    """The image of that name or digest in `store`; else from its registry, layout or archive, its blobs brought into
    `scratch` as they are read.

    Raises UsageError `image-unknown`, StoreError, TransferError, UntrustedDataError.
    """
    if name.startswith(_DIGEST):
        try:
            return stored_image(store, name, name, platform)
        except StoreError as error:
            raise UsageError(
                f"the store has no image {name}", code="image-unknown", hint="mbuild images lists what it has"
            ) from error
    reference = parse_reference(name)
    if isinstance(reference, Reference) and (kept := store.names.get(str(reference))) is not None:
        return stored_image(store, name, kept.digest, platform)
    bases = Bases(scratch, source, observer)
    base = bases.get(BaseReference(name, platform))
    if base.image is None:
        raise UsageError(f"{name} is no image to compare with", code="image-unknown", hint="name an image")
    return Image(name, base.image, base.layers, bases.open)


def _layers(image: ResolvedImage) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            one.diff_id,
            one.descriptor.digest,
            one.descriptor.size,
            mediatype.as_oci(one.descriptor.media_type) or mediatype.OCI_LAYER_GZIP,
        )
        for one in image.layers
    )


def field_differences(first: ResolvedImage, second: ResolvedImage) -> tuple[FieldDifference, ...]:
    """What of configuration and manifest is not the same; the digests of the layers' contents aside."""
    return tuple(_fields(first, second))


def _fields(first: ResolvedImage, second: ResolvedImage) -> Iterator[FieldDifference]:
    ours, theirs = first.configuration, second.configuration
    for name in _SHOWN:
        one, other = getattr(ours, name), getattr(theirs, name)
        if one == other:
            continue
        if name != "config":
            yield FieldDifference(name, _said(one), _said(other))
            continue
        for field in fields(one):
            values = getattr(one, field.name), getattr(other, field.name)
            if values[0] != values[1]:
                yield FieldDifference(f"config.{field.name}", _said(values[0]), _said(values[1]))
    yield from _history(ours, theirs)
    yield from _manifest(first, second)


def _history(first: ImageConfiguration, second: ImageConfiguration) -> Iterator[FieldDifference]:
    if len(first.history) != len(second.history):
        yield FieldDifference("history", f"{len(first.history)} lines", f"{len(second.history)} lines")
        return
    for number, (one, other) in enumerate(zip(first.history, second.history, strict=True), start=1):
        for field in fields(one):
            values = getattr(one, field.name), getattr(other, field.name)
            if values[0] != values[1]:
                yield FieldDifference(f"history line {number}: {field.name}", _said(values[0]), _said(values[1]))
                return  # the others most often differ in the same way


def _manifest(first: ResolvedImage, second: ResolvedImage) -> Iterator[FieldDifference]:
    manifests = first.manifest, second.manifest
    if manifests[0].media_type != manifests[1].media_type:
        yield FieldDifference("media type", manifests[0].media_type, manifests[1].media_type)
    if manifests[0].annotations != manifests[1].annotations:
        yield FieldDifference("annotations", _said(manifests[0].annotations), _said(manifests[1].annotations))
    if first.configuration.diff_ids != second.configuration.diff_ids:
        return
    for number, (one, other) in enumerate(zip(manifests[0].layers, manifests[1].layers, strict=True), start=1):
        if (one.digest, one.media_type) != (other.digest, other.media_type):
            said = [f"layer {number}: {each.media_type}, {each.size} bytes" for each in (one, other)]
            yield FieldDifference("compression", said[0], said[1])
            return


def _said(value: object) -> str:
    """A value in words. The caller bounds it."""
    match value:
        case tuple() if all(isinstance(item, tuple) and len(item) == 2 for item in value):
            return " ".join(f"{name}={said}" for name, said in value)
        case tuple():
            return " ".join(map(str, value))
        case None:
            return ""
    return str(value)
