"""Results that came from caches elsewhere, as a build uses them: their layers need not be here yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cache.results import Layer, StepResult
from cache.store import Store
from engine.images import mediatype
from engine.layers.limits import LayerLimits

if TYPE_CHECKING:
    from engine.carry.sources import Found, RemoteCaches

Steps = tuple[Layer | None, ...]

_ByContent = tuple[Layer | None, float, float]
"""What stays of a result that was found by its content, whatever it stands on."""

_LAYER_TYPES = frozenset({mediatype.OCI_LAYER, mediatype.OCI_LAYER_GZIP, mediatype.OCI_LAYER_ZSTD})


class CarriedResults:
    """Hands out the results of other caches and remembers which of their layers were not fetched and checked yet.
    Threads may share it."""

    def __init__(self, store: Store, caches: RemoteCaches) -> None:
        self.caches = caches
        self._store = store
        self._limits = LayerLimits.from_environment()
        self._lock = threading.Lock()
        self._waiting: set[Layer] = set()
        self._handed: dict[Layer, Found] = {}
        self._signed: set[Layer] = set()
        self._given: dict[str, tuple[Found, StepResult]] = {}
        self._by_content: set[_ByContent] = set()

    def by_definition(self, key: str, depth: int) -> Iterator[StepResult]:
        """The results under a definition key of a step that is the `depth`th since FROM; 0 for any."""
        for found in self.caches.by_definition(key):
            steps = found.entry.result.steps
            if steps and depth in (0, len(steps)) and self._acceptable(steps):
                result = self._taken(found, steps)
                self._given[key] = found, result
                yield result

    def by_content(self, key: str) -> Iterator[StepResult]:
        """The last steps of the results under a content key."""
        for found in self.caches.by_content(key):
            steps = found.entry.result.steps[-1:]
            if steps and self._acceptable(steps):
                result = self._taken(found, steps)
                self._by_content.add(_by_content(result))
                yield result

    def source_of(self, key: str, result: StepResult) -> Found | None:
        """Where a result under a definition key came from; None for one that is no other cache's."""
        found, given = self._given.get(key, (None, None))
        return found if given == result else None

    def gave(self, key: str, result: StepResult) -> bool:
        """Whether a result came from here, under a definition key or for its content."""
        return self.source_of(key, result) is not None or _by_content(result) in self._by_content

    def is_waiting(self, layer: Layer) -> bool:
        """Whether a layer was handed out and not `settled` yet: nobody has looked whether it is what it should be."""
        return layer in self._waiting

    def is_signed(self, layer: Layer) -> bool:
        """Whether a layer was handed out for an entry that a trusted key has signed."""
        return layer in self._signed

    def lost(self, layer: Layer) -> None:
        """A layer that was handed out cannot be had, or is not what it should be: it is not handed out again."""
        self.caches.exclude(layer, self._handed[layer])

    def settled(self, layer: Layer) -> None:
        """The layer is in the store, and is what it should be."""
        with self._lock:
            self._waiting.discard(layer)

    def _acceptable(self, steps: Steps) -> bool:
        layers = [layer for layer in steps if layer is not None]
        return all(layer.size <= self._limits.max_bytes and layer.media_type in _LAYER_TYPES for layer in layers)

    def _taken(self, found: Found, steps: Steps) -> StepResult:
        """The result, with the layers that are here already as they are here."""
        taken = tuple(layer and (self._plain(layer) or layer) for layer in steps)
        with self._lock:
            # What was checked once needs no second look.
            handed = {layer for layer in taken if layer is not None and layer in steps}
            self._waiting |= handed - self._handed.keys()
            self._handed.update(dict.fromkeys(handed, found))
            if found.signed:
                self._signed.update(layer for layer in steps if layer is not None)
        return replace(found.entry.result, steps=taken, hearsay=not found.signed)

    def _plain(self, layer: Layer) -> Layer | None:
        """The layer as this store would have made it, if it did. A blob that merely has that name may be anything: one
        that was found to be a layer has an index."""
        try:
            size = self._store.blobs.path(layer.diff_id).stat().st_size
        except FileNotFoundError:
            return None
        if not self._store.derived("layers", layer.diff_id).exists() or not self._store.blobs.is_sound(layer.diff_id):
            return None
        return Layer(layer.diff_id, layer.diff_id, size, mediatype.OCI_LAYER)


def _by_content(result: StepResult) -> _ByContent:
    return result.steps[-1] if result.steps else None, result.seconds, result.created
