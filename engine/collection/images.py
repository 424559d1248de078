"""What images need: their manifests, configurations, layers, machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from cache.collection.item import blob, diff, machine
from cache.store import Store
from engine.images.config import parse_configuration
from engine.images.manifest import Manifest, parse_manifest
from machinefile.errors import MbuildError
from machinefile.values import dataclass

_DEEPEST = 4
"""Indexes in indexes."""


@dataclass
class Needs:
    """What an image needs."""

    documents: set[str] = field(default_factory=set)
    """The digests of manifests, indexes and configurations."""
    layers: set[str] = field(default_factory=set)
    """The digests of the layers' blobs."""
    diffs: set[str] = field(default_factory=set)
    """The layers' diff ids."""
    machines: set[str] = field(default_factory=set)
    """Keys."""

    def names(self) -> frozenset[str]:
        """As collection names them."""
        blobs = (blob(digest) for digest in (*self.documents, *self.layers))
        return frozenset((*blobs, *map(diff, self.diffs), *map(machine, self.machines)))


class ImageReader:
    """Follows images through the store. What is missing or makes no sense ends the way there: what an image needs
    is then what can be read of it."""

    def __init__(self, store: Store, machines: Mapping[str, str]) -> None:
        """`machines` gives the key of an image's machine by the digest of its manifest."""
        self._store = store
        self._machines = machines

    def needs(self, digest: str) -> Needs:
        """What the image or index with that manifest needs."""
        found = Needs()
        self._follow(digest, found, _DEEPEST)
        return found

    def _follow(self, digest: str, found: Needs, depth: int) -> None:
        if digest in found.documents:
            return
        found.documents.add(digest)
        if digest in self._machines:
            found.machines.add(self._machines[digest])
        try:
            document = parse_manifest(self._store.blobs.read(digest))
        except MbuildError:
            return
        if isinstance(document, Manifest):
            found.documents.add(document.config.digest)
            found.layers |= {layer.digest for layer in document.layers}
            found.diffs |= self._diffs(document.config.digest)
            return
        for child in document.manifests:
            if depth:
                self._follow(child.digest, found, depth - 1)

    def _diffs(self, digest: str) -> set[str]:
        try:
            return set(parse_configuration(self._store.blobs.read(digest)).diff_ids)
        except MbuildError:  # also that of what is no image: a machine has none
            return set()
