"""Seals: which files of the store are known to hold what they should, so that they are not read again to be sure."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

from cache.index import Index, Kind
from machinefile.errors import StoreError
from machinefile.values import dataclass

Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Seal:
    """What is known of a file."""

    stamp: Stamp
    digest: str
    """Of its content; empty where that is in its name, or not known yet."""
    boot: str = ""
    """The boot of the machine that it holds for; empty if it outlives that."""


class Seals:
    """Remembers of a file what does not stay the same when it is written to or replaced: inode, size, mtime, ctime.

    A seal is put on a file when its content is known to be right: when it was made, or read and compared. It costs a
    stat to see that it holds, so that a build that uses gigabytes need not read them. A store that was copied has
    none that holds: its files are read once more when they are first used. What decays on the disk without being
    written to is found by reading: by outputs, by pushes, by `mbuild cache check`.

    What is not on the drive yet is right too, for every process, until the machine goes down: such a seal names the
    boot, and holds no longer than that.
    """

    def __init__(self, root: Path, index: Index) -> None:
        self._root = root
        self._prefix = f"{root}/"
        self._index = index
        self._seen: dict[str, Seal] = {}

    def put(self, path: Path, digest: str = "", *, lasts: bool = True) -> None:
        """The file at `path` is right as it is now; `digest` is of its content, where that is not in its name. It
        `lasts` if it was flushed to the drive.

        What cannot be remembered is checked again next time, no more.
        """
        stamp = stamp_of(path)
        if stamp is None:
            return
        seal = Seal(stamp, digest, "" if lasts else boot())
        name = self._name(path)
        if self._seen.get(name) == seal:
            return
        self._seen[name] = seal
        with suppress(StoreError):
            self._index.put(Kind.SEAL, name, [*stamp, digest, *([seal.boot] if seal.boot else [])])

    def holds(self, path: Path) -> bool:
        """Whether a file is as it was when it was sealed. False for what is no file."""
        return self.find(path) is not None

    def find(self, path: Path) -> Seal | None:
        """The seal that holds for a file, if one does."""
        stamp = stamp_of(path)
        if stamp is None:
            return None
        name = self._name(path)
        known = self._seen.get(name) or self._read(name)
        if known is None or known.stamp != stamp or (known.boot and known.boot != boot()):
            return None
        self._seen[name] = known
        return known

    def digest(self, path: Path) -> str:
        """The digest that a file was sealed with, be the seal broken or not; empty when there is none."""
        known = self._read(self._name(path))
        return known.digest if known is not None else ""

    def drop(self, path: Path) -> None:
        """Forget a file that is gone."""
        name = self._name(path)
        self._seen.pop(name, None)
        with suppress(StoreError):
            self._index.drop(Kind.SEAL, name)

    def _read(self, name: str) -> Seal | None:
        match self._index.get(Kind.SEAL, name):
            case [int(inode), int(size), int(mtime), int(ctime), str(digest)]:
                return Seal((inode, size, mtime, ctime), digest)
            case [int(inode), int(size), int(mtime), int(ctime), str(digest), str(booted)]:
                return Seal((inode, size, mtime, ctime), digest, booted)
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


@cache
def boot() -> str:
    """A name of the time since the machine was started, and of no other. Source: random(4), boot_id."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() or "?"
    except OSError:
        return f"process {os.getpid()}"  # nobody else believes it
