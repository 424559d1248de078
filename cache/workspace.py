"""A process's own folder for what is half done, which the next process removes if this one died."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path

from cache.files import store_errors
from cache.gate import Gate, try_lock

_TICK = 0.02
"""Seconds: longer than the kernel's clock for files takes to move on."""


class Workspace:
    """`tmp/<random>/`, held by a lock on `tmp/<random>/lock` for as long as the process lives.

    A folder whose lock is free belongs to a process that was killed.
    """

    def __init__(self, parent: Path) -> None:
        _sweep(parent)
        # The parent's gate keeps another process from sweeping the new folder before its lock is held.
        with store_errors("making a folder for temporary files"), _alone(parent):
            self.path = _new_folder(parent)
            self._descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def folder(self) -> Path:
        """A new empty folder, gone at the latest when the workspace is."""
        with store_errors("making a folder for temporary files"):
            return _new_folder(self.path)

    def others_began(self) -> float | None:
        """When the oldest of the other processes that live made its folder (by the file system's clock, in seconds
        since 1970); None when there is none."""
        with _alone(self.path.parent):
            began = [_began(folder) for folder in _folders(self.path.parent) if folder != self.path]
        return min((one for one in began if one is not None), default=None)

    def now(self) -> float:
        """The time by the file system's clock: what is written from now on is not older, what was written before is,
        where that clock ticks often enough."""
        name = self.path / _unused()
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            first = os.fstat(descriptor).st_mtime
            until = time.monotonic() + _TICK
            over = False
            while not over:
                over = time.monotonic() >= until  # before the last look: this thread may have to wait in between
                time.sleep(_TICK / 50)
                os.utime(descriptor)
                found = os.fstat(descriptor).st_mtime
                over = over or found != first
            return found
        finally:
            os.close(descriptor)
            os.unlink(name)

    def close(self) -> None:
        """Remove the folder and all that is in it. A second time does nothing."""
        if self._descriptor >= 0:
            _remove(self.path)
            os.close(self._descriptor)
            self._descriptor = -1


def any_alive(parent: Path) -> bool:
    """Whether a process has a workspace there."""
    with _alone(parent):
        return any(_began(folder) is not None for folder in _folders(parent))


def _alone(parent: Path) -> AbstractContextManager[None]:
    """Nobody else makes a workspace there meanwhile."""
    return Gate(parent / ".sweep", "another mbuild is making a folder for temporary files").alone()


def _sweep(parent: Path) -> None:
    """Remove what the dead left. No folder gets the name of one of them again, so others need not wait for it."""
    with _alone(parent):
        dead = [folder for folder in _folders(parent) if _began(folder) is None]
    for folder in dead:
        _remove(folder)


def _new_folder(parent: Path) -> Path:
    """An empty one, for this user alone. The standard library's takes milliseconds to import."""
    path = parent / _unused()
    path.mkdir(mode=0o700)
    return path


def _unused() -> str:
    return f"tmp{os.urandom(8).hex()}"


def _remove(folder: Path) -> None:
    """Remove a workspace, mostly an empty one, as far as that can be done."""
    try:
        os.unlink(folder / "lock")
        os.rmdir(folder)
    except OSError:
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    with store_errors("looking for running processes"):
        return [folder for folder in parent.iterdir() if folder.is_dir()]


def _began(folder: Path) -> float | None:
    """When the process that has a folder made it; None when that has ended, or is about to: it removes the folder with
    the lock held."""
    with store_errors("looking for running processes"):
        try:
            descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if try_lock(descriptor, fcntl.LOCK_EX):
                return None
            status = os.fstat(descriptor)
            return status.st_mtime if status.st_nlink else None
        finally:
            os.close(descriptor)
