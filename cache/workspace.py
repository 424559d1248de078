"""A process's own folder for what is half done, which the next process removes if this one died."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from cache.files import store_errors


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
