"""Where earlier records are: the store, and whatever else knows some."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from cache.index import Kind
from cache.records import KeptRecord, unpack
from cache.store import Store


class RecordSource(Protocol):
    """Records by the definition keys of their steps."""

    @property
    def label(self) -> str:
        """What to call it to the user; empty for the store itself."""
        ...

    def record(self, key: str) -> KeptRecord | None:
        """The record under a key. See cache.records.unpack for what is bounded."""
        ...

    def like(self, operation: str) -> Iterator[tuple[str, KeptRecord]]:
        """The records of an operation (`run`, `copy`, ...) with their keys, newest first. Who asks stops when it has
        enough."""
        ...


class StoreRecords:
    """Those of the store."""

    label = ""

    def __init__(self, store: Store) -> None:
        self._store = store

    def record(self, key: str) -> KeptRecord | None:
        """The record under a key."""
        return unpack(self._store.index.get(Kind.RECORD, key))

    def like(self, operation: str) -> Iterator[tuple[str, KeptRecord]]:
        """The records of an operation with their keys, newest first: of the 10,000 newest records of all operations."""
        newest = reversed(list(self._store.index.keys(Kind.RECORD)))
        for key in islice(newest, 10_000):
            raw = self._store.index.get(Kind.RECORD, key)
            if isinstance(raw, dict) and raw.get("operation") == operation and (kept := unpack(raw)) is not None:
                yield key, kept
