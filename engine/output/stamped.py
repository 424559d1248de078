"""A build's own layers with the time of SOURCE_DATE_EPOCH: made once for each time, then remembered."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cache.index import Kind
from cache.results import Layer, StepResult
from cache.spans import span
from cache.store import Store
from engine.images import mediatype
from engine.layers.limits import LayerLimits
from engine.layers.stamp import stamp
from engine.layers.tarread import TarStream
from engine.output.compress import PlainLayer, Supply
from machinefile.values import dataclass

_MOST_WORKERS = 4


def stamped(
    result: StepResult,
    seconds: int,
    store: Store,
    cancelled: threading.Event | None = None,
    supply: Supply | None = None,
    *,
    clamp: bool = False,
) -> StepResult:
    """The same file system with `seconds` since 1970 as the time of everything in its layers, or with `clamp` of what
    is later; they are plain and in the store then. For images alone: no step is to stand on it, and no cache is to have
    it.

    What is to be stamped is brought by `supply` first, if it is not here. Raises UntrustedDataError
    (`diff-id-mismatch`, `layer-...`), StoreError, InterruptedBuildError, and as `supply`.
    """
    how = _Stamp(seconds, clamp)
    found = {layer: how.known(layer, store) for layer in result.layers}
    missing = [layer for layer, there in found.items() if there is None]
    if supply is not None:
        supply.bring(missing)
    stop = cancelled or threading.Event()
    # The index stays with this thread; the workers only read and write blobs.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_WORKERS), "stamp") as pool:
        started = {layer: pool.submit(_make, layer, how, store, stop) for layer in missing}
        for layer, made in started.items():
            new = found[layer] = made.result()
            store.index.put(Kind.STAMPED, how.key(layer), [new.digest, new.size])
    return replace(result, steps=tuple(layer and found[layer] for layer in result.steps))


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What is put on layers."""

    seconds: int
    clamp: bool

    def key(self, layer: Layer) -> str:
        """Under what the index keeps the layer with it."""
        return f"{'until ' if self.clamp else ''}{self.seconds}:{layer.diff_id}"

    def known(self, layer: Layer, store: Store) -> Layer | None:
        """The layer with it, if it was made before and is there."""
        match store.index.get(Kind.STAMPED, self.key(layer)):
            case [str(digest), int(size)] if store.blobs.is_sound(digest, size):
                return Layer(digest, digest, size, mediatype.OCI_LAYER)
        return None


def _make(layer: Layer, how: _Stamp, store: Store, cancelled: threading.Event) -> Layer:
    with (
        span("stamp", "layer", layer=layer.diff_id),
        store.blobs.open(layer.digest) as blob,
        store.blobs.writer() as writer,
    ):
        plain = PlainLayer(layer, blob, cancelled)
        limits = LayerLimits.from_environment()
        stamp(TarStream(plain, hashed=False), writer, how.seconds, limits, clamp=how.clamp)
        plain.check()
    return Layer(writer.digest, writer.digest, writer.size, mediatype.OCI_LAYER)
