"""What files take up on the disk."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Found:
    """A file or a folder with all that is in it."""

    path: Path
    size: int
    """Bytes on the disk."""
    written: float
    """When it, or the last of what is in it, was written: seconds since 1970."""


class DiskUsage:
    """Counts blocks, as du does: a sparse file counts with what is in it, a file with several names once. Files
    that share blocks (reflinks) count in full: the kernel does not tell."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()

    def children(self, folder: Path) -> Iterator[Found]:
        """What is in a folder, sorted by name; nothing where there is none."""
        try:
            names = sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if (found := self.of(folder / name)) is not None:
                yield found

    def of(self, path: Path) -> Found | None:
        """What is at a path; no link is followed. None for nothing, or what went meanwhile."""
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        size, written = self._own(status), status.st_mtime
        if stat.S_ISDIR(status.st_mode):
            todo = [str(path)]
            while todo:
                with suppress(FileNotFoundError), os.scandir(todo.pop()) as entries:
                    for entry in entries:
                        with suppress(FileNotFoundError):
                            inside = entry.stat(follow_symlinks=False)
                            size += self._own(inside)
                            written = max(written, inside.st_mtime)
                            if stat.S_ISDIR(inside.st_mode):
                                todo.append(entry.path)
        return Found(path, size, written)

    def exceeds(self, folder: Path, limit: int, until: float) -> bool:
        """Whether a folder has more than that many bytes; also where that is not known `until` then (of
        time.monotonic()). Follows the links that are right in it: a part of a store may be elsewhere."""
        size, todo = 0, [str(folder)]
        while todo:
            above = todo.pop()
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(above) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=above == str(folder))
                        size += self._own(status)
                        if stat.S_ISDIR(status.st_mode):
                            todo.append(entry.path)
            if size > limit or time.monotonic() > until:
                return True
        return False

    def _own(self, status: os.stat_result) -> int:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in self._seen:
                return 0
            self._seen.add(identity)
        return status.st_blocks * 512
