"""Removing what was chosen, a little at a time, from a store that is used meanwhile."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from cache.collection.item import Entry, Holdings, Item, Reference, Sort, blob
from cache.collection.sweep import empty, take_away, unused
from cache.index import Kind
from cache.store import Store
from engine.collection.images import ImageReader
from engine.collection.survey import kept_by, read_result


class Removal:
    """Takes things away that a survey has found. What was used, named or made since the survey stays, and what it
    keeps: only that is looked at while the gate of the store is held alone."""

    def __init__(self, store: Store, holdings: Holdings) -> None:
        self._store = store
        self._guard = holdings.guard
        self._taken = holdings.taken
        self._images = {item.id: item.keeps for item in holdings.items if item.sort is Sort.IMAGE}
        self._there = Counter(name for item in holdings.items for name in _names(item))
        self._speaking = defaultdict[str, list[Reference]](list)
        for reference in holdings.references:
            for name in reference.names:
                self._speaking[name].append(reference)
        self._stay = set[str]()
        """The names that are kept by what turned out to stay."""
        self._new = set[Entry]()
        """The entries of the index that were written since the survey."""

    def take(self, batch: Sequence[Item], cancelled: threading.Event | None) -> tuple[Item, ...]:
        """Take things away, in the order in which they were chosen; gives those that went. Raises StoreError,
        InterruptedBuildError."""
        trash = self._store.folder()
        with self._store.uses.gate.alone(cancelled):
            self._look()
            with unused(batch) as free:
                going = list(self._going(batch, {item.name for item in free}))
                take_away(self._store, going, self._spoken_of(going), trash)
        empty(trash)
        return tuple(going)

    def forget(self, references: Sequence[Reference], marks: Sequence[str], cancelled: threading.Event | None) -> None:
        """Drop entries of the index, and marks of uses, that speak of what is gone. Raises as `take`."""
        with self._store.uses.gate.alone(cancelled):
            self._look()
            self._store.index.drop_all(one.entry for one in references if one.entry not in self._new)
            for mark in marks:
                if self._store.uses.last(mark) < self._guard:
                    self._store.uses.forget(mark)

    def _look(self) -> None:
        """Find out what came since the survey."""
        index = self._store.index
        self._new = set(index.stored_since(self._taken))
        reader: ImageReader | None = None
        for image in self._store.names.all():
            if blob(image.digest) not in self._images.get(image.name, ()):
                reader = reader or self._reader()
                self._images[image.name] = reader.needs(image.digest).names()
                self._stay |= self._images[image.name]
        for kind, key in self._new:
            match kind, index.get(kind, key) if kind in (Kind.RESULT, Kind.BASE, Kind.REMOTE) else None:
                case Kind.RESULT, value if (result := read_result(self._store, value)) is not None:
                    self._stay |= kept_by(result)
                case Kind.BASE, dict():
                    reader = reader or self._reader()
                    self._stay |= reader.needs(key).names()
                case Kind.REMOTE, [str(digest), *_]:
                    self._stay.add(blob(digest))

    def _reader(self) -> ImageReader:
        machines = self._store.index.entries(Kind.MACHINE)
        return ImageReader(self._store, {facts.key: key for facts, key in machines if isinstance(key, str)})

    def _going(self, batch: Iterable[Item], free: set[str]) -> Iterable[Item]:
        # What keeps a thing comes before it: cache/collection/choose.py.
        for item in batch:
            if item.name not in free or item.tied in self._stay or self._is_used(item):
                self._stay |= item.keeps
            else:
                yield item

    def _is_used(self, item: Item) -> bool:
        marks = (*item.noted, *item.used_with)
        paths = (*item.paths, *(() if item.lock is None else (item.lock,)))
        return (
            any(self._store.uses.last(mark) >= self._guard for mark in marks)
            or any(_written(path) >= self._guard for path in paths)
            or not self._new.isdisjoint(item.entries)
        )

    def _spoken_of(self, going: Iterable[Item]) -> Iterable[Entry]:
        """The entries of the index that speak of what goes."""
        for item in going:
            for name in _names(item):
                self._there[name] -= 1
                if not self._there[name]:
                    yield from (one.entry for one in self._speaking.pop(name, ()) if one.entry not in self._new)


def _names(item: Item) -> Iterable[str]:
    return {item.name, item.tied} - {""}


def _written(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
