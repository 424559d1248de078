"""The files of a commit, as COPY sees a tree."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from engine.context import Context
from engine.layers.entry import Entry, EntryType
from machinefile.ignore import IgnoreRules


class Checkout:
    """A folder that git filled, with other such folders in places of it: submodules and .git.

    Those lie elsewhere on the disk, so that no link of one repository leads git into another's files. Modes are those
    that git knows, whatever the umask.
    """

    def __init__(self, folder: Path, parts: Mapping[str, Checkout] | None = None) -> None:
        self._folder = folder
        self._files = Context(folder, IgnoreRules())
        self._parts = dict(parts or {})

    def entry(self, path: str) -> Entry | None:
        """What stands at a path, no link followed."""
        part, below = self._part(path)
        if part is not None:
            found = part.entry(below)
            return replace(found, path=path) if found is not None else None
        found = self._files.entry(path)
        if found is None or found.type is EntryType.SYMLINK:
            return found
        plain = found.type is EntryType.FILE and not found.mode & 0o100
        return replace(found, mode=0o644 if plain else 0o755)

    def children(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted by their bytes."""
        part, below = self._part(path)
        if part is not None:
            return part.children(below)
        names = set(self._files.children(path))
        names.update(other.rpartition("/")[2] for other in self._parts if other.rpartition("/")[0] == path)
        return sorted(names, key=lambda name: name.encode("utf-8", "surrogateescape"))

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        part, below = self._part(path)
        return part.open(below) if part is not None else self._files.open(path)

    def digest(self, path: str) -> str:
        """The sha256 of a file's content, in hex."""
        part, below = self._part(path)
        return part.digest(below) if part is not None else self._files.digest(path)

    def hash_all(self, paths: Sequence[str]) -> None:
        """Hash several files side by side; those of submodules when they are asked for."""
        self._files.hash_all([path for path in paths if self._part(path)[0] is None])

    def inode(self, path: str) -> tuple[int, int] | None:
        """None: git knows no second names."""
        return None

    def remove(self) -> None:
        """Give back the space on the disk, as far as this process can."""
        shutil.rmtree(self._folder.parent, ignore_errors=True)
        for part in self._parts.values():
            part.remove()

    def _part(self, path: str) -> tuple[Checkout | None, str]:
        names = path.split("/")
        for count in range(1, len(names) + 1):
            part = self._parts.get("/".join(names[:count]))
            if part is not None:
                return part, "/".join(names[count:])
        return None, path
