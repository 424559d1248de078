"""Seals: which files of the store are known to hold what they should, so that they are not read again to be sure."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from cache.index import Index, Kind
from machinefile.errors import StoreError

Stamp = tuple[int, int, int, int]


class Seals:
    """Remembers of a file what does not stay the same when it is written to or replaced: inode, size, mtime, ctime.

    A seal is put on a file when its content is known to be right: when it was made, or read and compared. It costs a
    stat to see that it holds, so that a build that uses gigabytes need not read them. A store that was copied has
    none that holds: its files are read once more when they are first used. What decays on the disk without being
    written to is found by reading: by outputs, by pushes, by `mbuild cache check`.
    """

    def __init__(self, root: Path, index: Index) -> None:
        self._root = root
        self._prefix = f"{root}/"
        self._index = index
        self._seen: dict[str, tuple[Stamp, str]] = {}

    def put(self, path: Path, digest: str = "") -> None:
        """The file at `path` is right as it is now; `digest` is of its content, where that is not in its name.

        What cannot be remembered is checked again next time, no more.
        """
        stamp = stamp_of(path)
        if stamp is None:
            return
        name = self._name(path)
        if self._seen.get(name) == (stamp, digest):
            return
        self._seen[name] = stamp, digest
        with suppress(StoreError):
            self._index.put(Kind.SEAL, name, [*stamp, digest])

    def holds(self, path: Path) -> bool:
        """Whether a file is as it was when it was sealed. False for what is no file."""
        stamp = stamp_of(path)
        if stamp is None:
            return False
        name = self._name(path)
        known = self._seen.get(name) or self._read(name)
        if known is None or known[0] != stamp:
            return False
        self._seen[name] = known
        return True

    def digest(self, path: Path) -> str:
        """The digest that a file was sealed with, be the seal broken or not; empty when there is none."""
        known = self._read(self._name(path))
        return known[1] if known is not None else ""

    def drop(self, path: Path) -> None:
        """Forget a file that is gone."""
        name = self._name(path)
        self._seen.pop(name, None)
        with suppress(StoreError):
            self._index.drop(Kind.SEAL, name)

    def _read(self, name: str) -> tuple[Stamp, str] | None:
        match self._index.get(Kind.SEAL, name):
            case [int(inode), int(size), int(mtime), int(ctime), str(digest)]:
                return (inode, size, mtime, ctime), digest
        return None

    def _name(self, path: Path) -> str:
        text = str(path)  # relative_to takes longer than the stat
        return text.removeprefix(self._prefix) if text.startswith(self._prefix) else str(path.relative_to(self._root))


def stamp_of(path: Path | int) -> Stamp | None:
    """What a regular file is now, by its path (a link is not followed) or descriptor; None for what is no file."""
    try:
        status = os.fstat(path) if isinstance(path, int) else os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    # Not the device: its number may change whenever the file system is mounted.
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
