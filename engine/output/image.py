"""Putting an image together: configuration, history, manifest, from a target's file system."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cache.names import NamedImage
from cache.results import Layer, StepResult
from cache.store import Store
from engine.bases import Base
from engine.images import mediatype
from engine.images.config import History, ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.manifest import Manifest
from engine.output.annotations import NO_ANNOTATIONS, Annotations
from engine.output.compress import DEFAULT, Supply, packed
from engine.output.kinds import OutputSpec
from engine.output.moments import NORMAL, Moments
from machinefile.platform import Platform
from machinefile.steps import BuildGraph
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.carry.inline import StepKeys

COMMENT = "mbuild.machinefile.v0"

_DOCKER_TYPES = {
    mediatype.OCI_MANIFEST: mediatype.DOCKER_MANIFEST,
    mediatype.OCI_CONFIG: mediatype.DOCKER_CONFIG,
    mediatype.OCI_LAYER: "application/vnd.docker.image.rootfs.diff.tar",
    mediatype.OCI_LAYER_GZIP: "application/vnd.docker.image.rootfs.diff.tar.gzip",
    mediatype.OCI_LAYER_ZSTD: "application/vnd.docker.image.rootfs.diff.tar.zstd",
}


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image whose configuration and manifest are in the store; its layers may be elsewhere still."""

    digest: str
    """Of its manifest."""
    manifest: Manifest
    size: int
    """Bytes of the manifest."""
    layers: tuple[Layer, ...] = ()
    """Its layers as the store keeps them: the base's as they came, then this build's, plain."""
    from_base: int = 0
    """How many of them are the base's."""
    platform: Platform | None = None
    """What it was asked for; None counts as no particular one."""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @property
    def document(self) -> Manifest:
        """What its digest is of."""
        return self.manifest

    @property
    def media_type(self) -> str:
        """Of the manifest."""
        return self.manifest.media_type

    @property
    def images(self) -> tuple[BuiltImage, ...]:
        """Itself."""
        return (self,)

    def below(self) -> tuple[Descriptor, ...]:
        """Every blob that it is made of, the manifest left out."""
        return (self.manifest.config, *self.manifest.layers)

    def keep(self, name: str, store: Store) -> None:
        """Give it a name in the store. Raises StoreError."""
        keep_name(name, self.digest, self.size, self.media_type, store)


def keep_name(name: str, digest: str, size: int, media_type: str, store: Store) -> None:
    """Give a manifest or an index, `size` bytes long, a name in the store. Raises StoreError."""
    store.names.put(NamedImage(name, digest, size, media_type, rfc3339(time.time())))


def rfc3339(seconds: float) -> str:
    """A time as OCI writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def assemble(
    graph: BuildGraph,
    base: Base,
    result: StepResult,
    store: Store,
    annotations: Annotations = NO_ANNOTATIONS,
    platform: Platform | None = None,
    cancelled: threading.Event | None = None,
    inline: Sequence[StepKeys] = (),
    supply: Supply | None = None,
    moments: Moments = NORMAL,
) -> BuiltImage:
    """Write configuration, compressed layers and manifest into the store. The base's blobs need not be there, nor those
    of layers that `supply` knows to be as they should.

    `platform` is what was asked for; the configuration says what the target's base is for. `inline` has the keys of
    the result's steps for an image that is to be a cache too. `moments` is when the image and its history's lines
    were made, as they say. Raises as `packed`.
    """
    platform = platform or graph.platform
    own = packed(result.layers, store, DEFAULT, cancelled, supply)
    configuration = _configuration(graph, base, result, moments)
    if inline:
        from engine.carry.inline import inline_document

        document = inline_document(inline, result, len(base.layers), own, DEFAULT.identity)
        configuration = replace(configuration, inline_cache=document)
    config = configuration.to_json()
    manifest = Manifest(
        config=Descriptor(mediatype.OCI_CONFIG, store.blobs.put(config), len(config)),
        layers=(*(_as_kept(layer) for layer in base.layers), *own),
        annotations=annotations.of_manifest(platform),
    )
    return _kept(
        BuiltImage(
            "",
            manifest,
            0,
            (*base.layers, *result.layers),
            len(base.layers),
            platform,
            configuration.os_version,
            configuration.os_features,
        ),
        store,
    )


def variant(
    image: BuiltImage,
    output: OutputSpec,
    store: Store,
    cancelled: threading.Event | None = None,
    supply: Supply | None = None,
) -> BuiltImage:
    """The image as an output wants it: its compression, annotations and media types. Its blobs are in the store, but
    for those that `supply` has.

    The base's layers stay as they came unless `force_compression` is set; then all are compressed anew, also those
    that came so compressed: who compressed them first does not show. Raises as `packed`.
    """
    kept = 0 if output.force_compression else image.from_base
    own = packed(image.layers[kept:], store, output.compression, cancelled, supply)
    added = output.annotations.of_manifest(image.platform)
    manifest = replace(
        image.manifest,
        layers=(*image.manifest.layers[:kept], *own),
        annotations=tuple(sorted({**dict(image.manifest.annotations), **dict(added)}.items())),
    )
    if not output.oci_media_types:
        manifest = _for_docker(manifest)
    return image if manifest == image.manifest else _kept(replace(image, manifest=manifest), store)


def _kept(image: BuiltImage, store: Store) -> BuiltImage:
    """The image with its manifest in the store, and what that is there."""
    data = image.manifest.to_json()
    return replace(image, digest=store.blobs.put(data), size=len(data))


def _as_kept(layer: Layer) -> Descriptor:
    return Descriptor(layer.media_type, layer.digest, layer.size)


def _for_docker(manifest: Manifest) -> Manifest:
    """The same with Docker's media types. Its schema has no annotations; registries keep them all the same."""

    def renamed(descriptor: Descriptor) -> Descriptor:
        return replace(descriptor, media_type=_DOCKER_TYPES.get(descriptor.media_type, descriptor.media_type))

    return replace(
        manifest,
        config=renamed(manifest.config),
        layers=tuple(map(renamed, manifest.layers)),
        media_type=_DOCKER_TYPES.get(manifest.media_type, manifest.media_type),
    )


def _configuration(graph: BuildGraph, base: Base, result: StepResult, moments: Moments) -> ImageConfiguration:
    own = ImageConfiguration(
        config=graph.config,
        architecture=graph.platform.architecture,
        os=graph.platform.os,
        variant=graph.platform.variant,
        diff_ids=tuple(layer.diff_id for layer in (*base.layers, *result.layers)),
        history=(*_base_history(base), *_history(graph, result, moments)),
        created=rfc3339(moments.created),
        author=graph.author or (base.configuration.author if base.configuration else ""),
    )
    if base.configuration is None:
        return own
    return replace(own, os_version=base.configuration.os_version, os_features=base.configuration.os_features)


def _base_history(base: Base) -> tuple[History, ...]:
    """The base's history; one whose lines do not match its layers says nothing and would shift ours."""
    if base.configuration is None:
        return ()
    history = base.configuration.history
    with_layer = sum(not entry.empty_layer for entry in history)
    missing = len(base.layers) - with_layer
    if missing < 0:
        history = ()
        missing = len(base.layers)
    return (*history, *(History(comment="from the base image") for _ in range(missing)))


def _history(graph: BuildGraph, result: StepResult, moments: Moments) -> tuple[History, ...]:
    added = iter(result.steps)
    lines = []
    for step_id in graph.history:
        step = graph.step(step_id)
        empty = not (step.makes_layer and next(added) is not None)
        created = rfc3339(moments.of(step_id))
        lines.append(History(created=created, created_by=step.created_by, comment=COMMENT, empty_layer=empty))
    return tuple(lines)
