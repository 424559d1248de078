"""A cache elsewhere, for tests: in memory, with what another store's build came to, and bad days on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from cache.carry.entry import CacheEntry, CarriedMount
from cache.carry.index import CacheIndex
from cache.carry.place import Change, Lost, Sink
from cache.index import Kind
from cache.results import Layer, StepResult
from cache.store import Store
from engine.output.compress import DEFAULT, Compression, packed
from engine.plan import Plan
from machinefile.errors import MbuildError, TransferError


@dataclass
class MemoryCache:
    """A CachePlace to read from, which remembers what was asked of it."""

    index: CacheIndex = field(default_factory=CacheIndex)
    blobs: dict[str, bytes] = field(default_factory=dict)
    label: str = "memory"
    reads: int = 0
    fetched: list[str] = field(default_factory=list)
    closed: int = 0
    failure: MbuildError | None = None
    """What reading the index fails of."""
    before: Callable[[str], None] = lambda digest: None
    """Called before a blob is sent."""

    def read(self) -> CacheIndex:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return self.index

    def known(self, lost: Lost) -> CacheIndex:
        raise AssertionError("nothing is sent to a cache that is read")

    def fetch(self, digest: str, size: int, sink: Sink) -> None:
        self.fetched.append(digest)
        self.before(digest)
        if digest not in self.blobs:
            raise TransferError(f"{digest} is gone", code="blob-not-found")
        for at in range(0, len(self.blobs[digest]), 1000):
            sink(self.blobs[digest][at : at + 1000])

    def has(self, digest: str, size: int) -> bool:
        return digest in self.blobs

    def send(self, digest: str, size: int, media_type: str, open_blob: Callable[[], BinaryIO]) -> None:
        raise AssertionError("nothing is sent to a cache that is read")

    def publish(self, change: Change) -> bool:
        raise AssertionError("nothing is sent to a cache that is read")

    def close(self) -> None:
        self.closed += 1

    def take(self, store: Store, plan: Plan, compression: Compression = DEFAULT, packing: str | None = None) -> None:
        """Hold what a store has of a plan's steps; `packing` is what the index says of how it was compressed."""
        contents = {repr(store.index.get(Kind.CONTENT, key)): key for key in store.index.keys(Kind.CONTENT)}
        entries = dict(self.index.entries)
        packings = dict(self.index.packings)
        for planned in plan.steps:
            if planned.result is None:
                continue
            content = contents[repr(store.index.get(Kind.RESULT, planned.key))]
            steps = tuple(step and self._hold(store, step, compression) for step in planned.result.steps)
            entries[planned.key] = CacheEntry(planned.key, content, replace(planned.result, steps=steps))
            for layer in filter(None, steps):
                packings[layer.digest] = compression.identity if packing is None else packing
        self.index = CacheIndex(entries, packings=packings)

    def _hold(self, store: Store, layer: Layer, compression: Compression) -> Layer:
        (descriptor,) = packed([layer], store, compression)
        with store.blobs.open(descriptor.digest) as blob:
            self.blobs[descriptor.digest] = blob.read()
        return Layer(layer.diff_id, descriptor.digest, descriptor.size, descriptor.media_type)

    def change(self, mend: Callable[[Layer], Layer]) -> None:
        """Say something else of every layer."""

        def mended(result: StepResult) -> StepResult:
            return replace(result, steps=tuple(step and mend(step) for step in result.steps))

        entries = {key: replace(entry, result=mended(entry.result)) for key, entry in self.index.entries.items()}
        self.index = replace(self.index, entries=entries)


@dataclass(frozen=True)
class Vouched:
    """Trusts the entries with these keys."""

    keys: frozenset[str]

    def trusts(self, entry: CacheEntry | CarriedMount) -> bool:
        return isinstance(entry, CacheEntry) and entry.key in self.keys
