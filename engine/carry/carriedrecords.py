"""The records that other caches have: what a step that misses is compared with where it was never built here."""

from __future__ import annotations

from collections.abc import Iterator

from cache.carry.index import CacheIndex
from cache.carry.place import CachePlace
from cache.records import KeptRecord, unpack
from engine.carry.records import read_records
from engine.events import Note, Observer
from machinefile.errors import MbuildError

_MOST_PACKS = 8
"""Of one cache: those with the newest entries. A pack is what one export sent."""


class CarriedRecords:
    """A RecordSource over one place. A pack is fetched when a record of it is first asked for; one that cannot be had
    is passed over."""

    def __init__(self, place: CachePlace, index: CacheIndex, observer: Observer) -> None:
        self.label = place.label
        self._place = place
        self._index = index
        self._observer = observer
        self._packs: dict[str, dict[str, KeptRecord]] = {}

    def record(self, key: str) -> KeptRecord | None:
        """The record under a key. Raises InterruptedBuildError."""
        entry = self._index.entries.get(key)
        return self._pack(entry.records).get(key) if entry is not None and entry.records else None

    def like(self, operation: str) -> Iterator[tuple[str, KeptRecord]]:
        """The records of an operation with their keys, newest first. Raises InterruptedBuildError."""
        for entry in sorted(self._index.entries.values(), key=lambda one: (-one.result.created, one.key)):
            record = self._pack(entry.records).get(entry.key) if entry.records else None
            if record is not None and record.operation == operation:
                yield entry.key, record

    def _pack(self, digest: str) -> dict[str, KeptRecord]:
        if digest not in self._packs:
            if len(self._packs) >= _MOST_PACKS:
                return {}
            keys = [key for key, entry in self._index.entries.items() if entry.records == digest]
            found = read_records(self._place, self._index, keys, self._missing)
            self._packs[digest] = {key: kept for key, value in found.items() if (kept := unpack(value)) is not None}
        return self._packs[digest]

    def _missing(self, error: MbuildError) -> None:
        self._observer(Note(f"not compared with what is in {self.label}: {error.message}"))
