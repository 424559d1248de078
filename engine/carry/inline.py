"""A cache inside an image: its configuration says which steps its layers come from.

It has nothing of this machine, and times only where the image's files keep theirs, so that equal builds still give
equal images. It speaks of the image's own steps alone; what an image is built on keeps what it says to itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from cache.carry.entry import CacheEntry, is_digest
from cache.carry.index import MOST_STEPS as MOST_PLACES
from cache.carry.index import CacheIndex
from cache.results import Layer, StepResult, seconds_of
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.image import LayerDescriptor
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

MOST_STEPS = 2000
_LONGEST_PACKING = 200


@dataclass(frozen=True, slots=True)
class StepKeys:
    """What a step of an image is known by."""

    definition: str
    content: str
    """Empty where it is not told."""
    made: int = 0
    """When, in seconds since 1970; 0 where it is not told."""


def inline_document(
    keys: Sequence[StepKeys], result: StepResult, first: int, blobs: Sequence[Descriptor], packing: str
) -> str:
    """What the configuration holds: for each step its keys and, if it has a layer, its place among the image's.

    `keys` are those of the result's steps; its layers, compressed as `packing` says into `blobs`, begin at the place
    `first`. An output may compress them otherwise: the digests tell for which blobs the packing is true.
    """
    places = iter(range(first, first + len(blobs)))
    steps = [
        [step.definition, step.content, None if layer is None else next(places)]
        for step, layer in zip(keys, result.steps, strict=True)
    ]
    document: dict[str, object] = {"steps": steps, "packing": packing, "blobs": [blob.digest for blob in blobs]}
    if any(step.made for step in keys):
        document["made"] = [step.made for step in keys]
    return json.dumps(document, separators=(",", ":"))


def parse_inline(text: str, layers: Sequence[LayerDescriptor], what: str) -> CacheIndex:
    """The entries of such a document; `layers` are those of the image that has it.

    Where it is not said when the steps ran, their results were created in 1970. A step without a content key gets one
    that nothing has, its definition key. Of an image with so many steps that their results have more places than an
    index, the last count. Raises UntrustedDataError (`cache-invalid`); `what` names the image to the user.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"steps": list(steps), "packing": str(packing), "blobs": list(blobs)} if (
            len(steps) <= MOST_STEPS and len(packing) <= _LONGEST_PACKING
        ):
            entries = _entries(steps, layers, _made(document.get("made"), len(steps)), what)
            packed = {blob for blob in blobs if isinstance(blob, str)}
            packings = {one.descriptor.digest: packing for one in layers if one.descriptor.digest in packed}
            return CacheIndex({entry.key: entry for entry in entries}, packings=packings)
    raise _invalid(what)


def _made(times: object, count: int) -> list[float]:
    """When the steps ran; what makes no sense counts as not said."""
    said = [seconds_of(one) or 0.0 for one in times] if isinstance(times, list) and len(times) == count else []
    return said or [0.0] * count


def _entries(
    steps: Sequence[object], layers: Sequence[LayerDescriptor], times: Sequence[float], what: str
) -> list[CacheEntry]:
    known = [_layer(layer) for layer in layers]
    keys: list[tuple[str, str]] = []
    made: list[Layer | None] = []
    next_place = 0
    for step in steps:
        match step:
            case [str(key), str(content), None] if _are_keys(key, content):
                made.append(None)
            case [str(key), str(content), int(place)] if _are_keys(key, content) and next_place <= place < len(known):
                made.append(known[place])
                next_place = place + 1
            case _:
                raise _invalid(what)
        keys.append((key, content))
    entries: list[CacheEntry] = []
    room = MOST_PLACES
    for number in range(len(keys), 0, -1):
        room -= number  # Each result has the places of all below it: together they grow with the square of the steps.
        if room < 0:
            break
        key, content = keys[number - 1]
        entries.append(CacheEntry(key, content or key, StepResult(tuple(made[:number]), created=times[number - 1])))
    return entries[::-1]


def _are_keys(key: str, content: str) -> bool:
    return is_digest(key) and (not content or is_digest(content))


def _layer(layer: LayerDescriptor) -> Layer:
    blob = layer.descriptor
    kind = mediatype.as_oci(blob.media_type) or mediatype.OCI_LAYER_GZIP
    return Layer(layer.diff_id, blob.digest, blob.size, kind)


def _invalid(what: str) -> UntrustedDataError:
    return UntrustedDataError(
        f"the cache inside {what} makes no sense", code="cache-invalid", hint="build and push the image again"
    )
