"""Which templates this process uses: a shared lock on each, for as long as the process lives."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engine.vm.runfolder import wait_for_lock

_used: dict[Path, int] = {}
"""The descriptors of the locks, by folder."""
_used_lock = threading.Lock()


def keeps_in_use(folder: Path, cancelled: threading.Event, waiting: Callable[[], None] | None = None) -> bool:
    """Whether there is such a folder; if so, nobody removes it while this process lives, and it counts as used now.

    Waits for who makes it, or takes it away, under the same lock; `waiting` is called once if that is so. Raises
    InterruptedBuildError.
    """
    with _used_lock:
        held = folder in _used
        if held and not folder.is_dir():
            os.close(_used.pop(folder))
    if held and folder.is_dir():
        return True
    lock = folder.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:  # where this cannot be written, nothing can be removed
        return folder.is_dir()
    # Held alone only while a template is made, or renamed to be removed.
    try:
        wait_for_lock(descriptor, fcntl.LOCK_SH, cancelled, waiting)
    except BaseException:
        os.close(descriptor)
        raise
    if not folder.is_dir():
        os.close(descriptor)
        return False
    with suppress(OSError):
        os.utime(descriptor)
    with _used_lock:
        if folder in _used:
            os.close(descriptor)
        else:
            _used[folder] = descriptor
    return True
