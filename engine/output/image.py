"""Putting an image together: configuration, history, manifest, from a target's file system."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cache.results import Layer, StepResult
from cache.store import Store
from engine.bases import Base
from engine.images import mediatype
from engine.images.config import History, ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.manifest import Manifest
from engine.layers.entry import NORMAL_TIME
from engine.output.compress import packed
from machinefile.steps import BuildGraph

COMMENT = "mbuild.machinefile.v0"


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image whose blobs are all in the store."""

    digest: str
    """Of its manifest."""
    manifest: Manifest
    size: int
    """Bytes of the manifest."""


def rfc3339(seconds: float) -> str:
    """A time as OCI writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def assemble(graph: BuildGraph, base: Base, result: StepResult, store: Store) -> BuiltImage:
    """Write configuration, compressed layers and manifest into the store. The base's blobs are there already."""
    own = tuple(packed(layer, store) for layer in result.layers)
    configuration = _configuration(graph, base, result)
    config = configuration.to_json()
    manifest = Manifest(
        config=Descriptor(mediatype.OCI_CONFIG, store.blobs.put(config), len(config)),
        layers=(*(_base_descriptor(layer) for layer in base.layers), *own),
    )
    data = manifest.to_json()
    return BuiltImage(store.blobs.put(data), manifest, len(data))


def _base_descriptor(layer: Layer) -> Descriptor:
    return Descriptor(layer.media_type, layer.digest, layer.size)


def _configuration(graph: BuildGraph, base: Base, result: StepResult) -> ImageConfiguration:
    created = rfc3339(NORMAL_TIME)
    own = ImageConfiguration(
        config=graph.config,
        architecture=graph.platform.architecture,
        os=graph.platform.os,
        variant=graph.platform.variant,
        diff_ids=tuple(layer.diff_id for layer in (*base.layers, *result.layers)),
        history=(*_base_history(base), *_history(graph, result, created)),
        created=created,
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


def _history(graph: BuildGraph, result: StepResult, created: str) -> tuple[History, ...]:
    added = iter(result.steps)
    lines = []
    for step_id in graph.history:
        step = graph.step(step_id)
        empty = not (step.makes_layer and next(added) is not None)
        lines.append(History(created=created, created_by=step.created_by, comment=COMMENT, empty_layer=empty))
    return tuple(lines)
