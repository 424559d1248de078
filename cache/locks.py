"""Locks between processes, which the kernel releases when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cache.files import store_errors
from cache.spans import span
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

    The lock's file may be removed by who holds it (`remove_free_locks`): who gets a lock looks whether its file still
    has the name, and begins again if not. Otherwise a third process could lock a new file of that name meanwhile.
    """
    path = folder / hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    descriptor = _opened(path, name)
    waited = False
    try:
        with ExitStack() as waits:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _has_name(descriptor, path):
                        break
                    stale, descriptor = descriptor, _opened(path, name)
                    os.close(stale)
                except BlockingIOError:
                    if not waited:
                        waits.enter_context(span("wait for another", "wait", what=name.partition(" ")[0]))
                        if waiting is not None:
                            waiting()
                    waited = True
                    if cancelled is not None and cancelled.is_set():
                        raise InterruptedBuildError from None
                    time.sleep(_POLL)
        yield waited
    finally:
        os.close(descriptor)


def remove_free_locks(folder: Path) -> int:
    """Remove the files of all locks that nobody holds; gives their number."""
    removed = 0
    with os.scandir(folder) as entries:
        paths = [entry.path for entry in entries]
    for path in paths:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _has_name(descriptor, Path(path)):
                    os.unlink(path)
                    removed += 1
            finally:
                os.close(descriptor)
    return removed


def _opened(path: Path, name: str) -> int:
    with store_errors(f"locking {name}"):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _has_name(descriptor: int, path: Path) -> bool:
    """Whether the file that is open is the one of that name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
