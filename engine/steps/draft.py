"""The target of a copy while it is written."""

from __future__ import annotations

from dataclasses import replace

from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.steps.tree import Tree, resolve
from machinefile.errors import MachinefileError
from machinefile.values import dataclass

_DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Copied:
    """One entry that a copy puts into the layer, and where its content is."""

    entry: Entry
    source: str | None = None
    """FILE: its path in the tree that it comes from."""
    archive: int | None = None
    """FILE: which of the unpacked archives that tree is; None for the source of the copy."""
    content: bytes | None = None
    """FILE: the content itself, for a heredoc."""
    group: int = 0
    """Which of the copy's sources it came with: names of one file stay that only among what came together."""


class Draft:
    """The target as it looks with what the copy has written so far."""

    def __init__(self, target: Tree, owner: tuple[int, int] | None, now: int = NORMAL_TIME) -> None:
        """`now` is the time of what is made in it: seconds since 1970."""
        self._target = target
        self.owner = owner
        self.now = now
        self._new: dict[str, Copied] = {}
        self._nowhere: set[str] = set()
        """Directories that are not in the target: nothing in them is, and nobody need look."""

    def entry(self, path: str) -> Entry | None:
        """What stands at a path, no link followed."""
        new = self._new.get(path)
        if new:
            return new.entry
        return None if path.rpartition("/")[0] in self._nowhere else self._target.entry(path)

    def resolve(self, path: str) -> str:
        """The path with its links followed inside the target. Raises LinkLoopError."""
        return resolve(self.entry, path)

    def put(self, copied: Copied) -> None:
        """Write an entry over whatever is there."""
        path = copied.entry.path
        old = self._new.get(path)
        if old and old.entry.type is EntryType.DIRECTORY and copied.entry.type is not EntryType.DIRECTORY:
            self._new = {other: kept for other, kept in self._new.items() if not other.startswith(path + "/")}
        elif old is None and copied.entry.type is EntryType.DIRECTORY:
            above = path.rpartition("/")[0]
            if above in self._nowhere or self._target.entry(path) is None:
                self._nowhere.add(path)
        self._new[path] = copied

    def make_directories(self, path: str) -> None:
        """What `mkdir -p` does; the path is resolved already."""
        existing = self.entry(path)
        if existing is not None:
            if existing.type is not EntryType.DIRECTORY:
                raise conflict(f"/{path} is in the way: it is not a directory")
            return
        if path:
            self.make_directories(path.rpartition("/")[0])
            uid, gid = self.owner or (0, 0)
            self.put(Copied(Entry(path, EntryType.DIRECTORY, _DIRECTORY_MODE, uid, gid, mtime=self.now)))

    def finished(self) -> list[Copied]:
        """What was written, each with the directories above it, as the target has them: layers are read alone."""
        parents: dict[str, Copied] = {}
        seen = {""}
        for path in self._new:
            while (path := path.rpartition("/")[0]) not in seen:
                seen.add(path)
                if path in self._new:
                    continue
                below = self._target.entry(path)
                if below is not None:
                    parents[path] = Copied(replace(below, opaque=False))
        return sorted((parents | self._new).values(), key=lambda copied: copied.entry.sort_key)


def conflict(message: str) -> MachinefileError:
    """The error for what cannot replace what is there."""
    return MachinefileError.one(message, code="copy-conflict", hint="name another destination, or remove it first")
