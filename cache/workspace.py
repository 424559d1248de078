"""A process's own folder for what is half done, which the next process removes if this one died."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

from cache.files import store_errors

_TICK = 0.02
"""Seconds: longer than the kernel's clock for files takes to move on."""


class Workspace:
    """`tmp/<random>/`, held by a lock on `tmp/<random>/lock` for as long as the process lives.

    A folder whose lock is free belongs to a process that was killed.
    """

    def __init__(self, parent: Path) -> None:
        # The parent's lock keeps another process from sweeping the new folder before its lock is held.
        with store_errors("making a folder for temporary files"), _held(parent / ".sweep"):
            _sweep(parent)
            self.path = Path(tempfile.mkdtemp(dir=parent))
            self._descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def folder(self) -> Path:
        """A new empty folder, gone at the latest when the workspace is."""
        with store_errors("making a folder for temporary files"):
            return Path(tempfile.mkdtemp(dir=self.path))

    def others_began(self) -> float | None:
        """When the oldest of the other processes that live made its folder (by the file system's clock, in seconds
        since 1970); None when there is none."""
        began = []
        with store_errors("looking for running processes"), _held(self.path.parent / ".sweep"):
            for folder in self.path.parent.iterdir():
                lock = folder / "lock"
                if folder != self.path and folder.is_dir() and not _abandoned(lock):
                    began.append(lock.stat().st_mtime)
        return min(began, default=None)

    def now(self) -> float:
        """The time by the file system's clock: what is written from now on is not older, what was written before is,
        where that clock ticks often enough."""
        descriptor, name = tempfile.mkstemp(dir=self.path)
        try:
            found = last = os.fstat(descriptor).st_mtime
            until = time.monotonic() + _TICK
            while found == last and time.monotonic() < until:
                time.sleep(_TICK / 50)
                os.utime(descriptor)
                found = os.fstat(descriptor).st_mtime
            return found
        finally:
            os.close(descriptor)
            os.unlink(name)

    def close(self) -> None:
        """Remove the folder and all that is in it. A second time does nothing."""
        if self._descriptor >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._descriptor)
            self._descriptor = -1


class _held:  # noqa: N801 - reads as a verb where it is used
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _sweep(parent: Path) -> None:
    for folder in parent.iterdir():
        if folder.is_dir() and _abandoned(folder / "lock"):
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def any_alive(parent: Path) -> bool:
    """Whether a process has a workspace there."""
    with store_errors("looking for running processes"), _held(parent / ".sweep"):
        return any(folder.is_dir() and not _abandoned(folder / "lock") for folder in parent.iterdir())
