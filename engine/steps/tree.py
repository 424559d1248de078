"""What COPY reads from and writes onto: a tree of entries, be it a folder of the host or a stack of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from engine.layers.entry import Entry, EntryType

MAX_LINKS = 255
"""Symbolic links followed for one path before it counts as a loop. Source: containerd's continuity, fs.RootPath."""


class LinkLoopError(ValueError):
    """A path that leads through too many symbolic links."""


class Tree(Protocol):
    """A file system to look into; paths are clean and relative, the root is the empty text."""

    def entry(self, path: str) -> Entry | None:
        """What stands at a path, no link followed; None where nothing does."""
        ...

    def children(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted by their bytes."""
        ...


def resolve(entry: Callable[[str], Entry | None], path: str, *, follow_last: bool = True) -> str:
    """The path with every symbolic link followed as if the tree were the root of a system.

    What does not exist stays as it is; `..` never leads above the root. Raises LinkLoopError.
    """
    done: list[str] = []
    todo = [part for part in reversed(path.split("/")) if part]
    links = 0
    while todo:
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        candidate = "/".join([*done, part])
        found = entry(candidate)
        if found is not None and found.type is EntryType.SYMLINK and (todo or follow_last):
            links += 1
            if links > MAX_LINKS:
                raise LinkLoopError(path)
            if found.link.startswith("/"):
                done = []
            todo += [step for step in reversed(found.link.split("/")) if step]
            continue
        done.append(part)
    return "/".join(done)
