"""The blobs that layers go out as: compressed as the image has them, so that a registry keeps both once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

from cache.results import Layer
from cache.store import Store
from engine.images.descriptor import Descriptor
from engine.output.compress import DEFAULT, known_packing, packed
from engine.supply import LayerSupply


def outgoing(
    layers: Iterable[Layer],
    there: Mapping[str, Layer],
    fetch: Callable[[Layer], bool],
    store: Store,
    supply: LayerSupply,
    cancelled: threading.Event,
) -> dict[str, Layer]:
    """What each layer goes out as, by diff id; those that cannot be had are left out.

    `there` are layers that lie at the destination already, by diff id: they are not compressed, and not fetched, for
    that. `fetch` brings a layer that is not in the store there, or says that it does not.
    Raises UntrustedDataError, StoreError, InterruptedBuildError.
    """
    found: dict[str, Layer] = {}
    to_pack: dict[str, Layer] = {}
    for layer in layers:
        if layer.diff_id in found or layer.diff_id in to_pack:
            continue
        known = known_packing(layer, store)
        if known is not None:
            found[layer.diff_id] = _carried(layer, known)
        elif layer.diff_id in there:
            found[layer.diff_id] = there[layer.diff_id]
        elif supply.is_here(layer) or fetch(layer):
            to_pack[layer.diff_id] = layer
    descriptors = packed(tuple(to_pack.values()), store, DEFAULT, cancelled, supply) if to_pack else ()
    made = zip(to_pack.values(), descriptors, strict=True)
    return found | {layer.diff_id: _carried(layer, descriptor) for layer, descriptor in made}


def _carried(layer: Layer, descriptor: Descriptor) -> Layer:
    return Layer(layer.diff_id, descriptor.digest, descriptor.size, descriptor.media_type)
