"""Private folders of running machines, and the sweeping of those whose mbuild died.

VM_DIR/run/XXXXXXXX/      one a machine
                    lock  flocked by the mbuild that owns it, for as long as it lives
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GRACE = 60.0
"""Seconds that a folder may be without its lock: its owner is about to make it."""


@contextmanager
def run_folder(parent: Path) -> Iterator[Path]:
    """A new folder, removed on leaving."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=""))
    try:
        with (folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> int:
    """Remove the folders that nobody owns any more; gives their number."""
    removed = 0
    for folder in parent.iterdir() if parent.is_dir() else ():
        if _abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    return removed


def _abandoned(folder: Path) -> bool:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        try:
            return time.time() - folder.stat().st_mtime > _GRACE
        except OSError:
            return False
    except OSError:
        return False
    return True


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds a lock among processes and threads; death releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
