"""Locks between processes, which the kernel releases when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.files import store_errors
from machinefile.errors import InterruptedBuildError

_POLL = 0.02
"""Seconds between two tries. flock has no deadline of its own, and a signal would not wake a thread out of it."""


@contextmanager
def locked(
    folder: Path,
    name: str,
    *,
    cancelled: threading.Event | None = None,
    waiting: Callable[[], None] | None = None,
) -> Iterator[bool]:
    """Hold the lock of that name, whatever characters the name has, against all processes that share the folder.

    Gives True when another process held it first, so that what it made may be there now. `waiting` is called
    once, when the lock is not free at once. Raises InterruptedBuildError when `cancelled` is set meanwhile.

    The lock's file stays: removing it would let a third process lock a new file of that name while a second
    still waits for the old one.
    """
    path = folder / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    with store_errors(f"locking {name}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    waited = False
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited and waiting is not None:
                    waiting()
                waited = True
                if cancelled is not None and cancelled.is_set():
                    raise InterruptedBuildError from None
                time.sleep(_POLL)
        yield waited
    finally:
        os.close(descriptor)
