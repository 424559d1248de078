"""The file system that layers make together, as COPY sees it."""

from __future__ import annotations

from dataclasses import replace

from engine.layers.entry import Entry, EntryType
from engine.layers.root import Located, RootView


class LayerTree:
    """A RootView as a Tree: hard links are shown as the files they are."""

    def __init__(self, view: RootView) -> None:
        self._view = view

    def entry(self, path: str) -> Entry | None:
        """What stands at a path, no link followed."""
        located = self._view.lookup(path)
        if located is None:
            return None
        entry = located.entry
        if entry.type is EntryType.HARDLINK:
            entry = replace(self._view.file(located).entry, path=path)
        return entry

    def children(self, path: str) -> tuple[str, ...]:
        """The names in a directory, sorted by their bytes."""
        return self._view.children(path)

    def located(self, path: str) -> Located:
        """Where the content of a file is. Raises KeyError when nothing stands there."""
        found = self._view.lookup(path)
        if found is None:
            raise KeyError(path)
        return found
