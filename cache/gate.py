"""The gate between who uses what the store holds and who removes it."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.files import store_errors
from machinefile.errors import InterruptedBuildError, StoreError

GATE_POLL = 0.005
"""Seconds between two tries. flock has no deadline of its own, and a signal would not wake a thread out of it."""
_PATIENCE = 60.0
"""Seconds: nobody holds one for long."""


class Gate:
    """A file that is flocked: shared by those who look whether something is there and note that they use it, alone by
    who looks whether what is to go is still unused and takes it away. Both are short. Threads may share one."""

    def __init__(self, path: Path, busy: str = "another mbuild is cleaning the store") -> None:
        """`busy` says what the other does when it takes too long."""
        self._path = path
        self._busy = busy

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nothing is removed meanwhile. Raises StoreError (`store-busy`)."""
        with self._held(fcntl.LOCK_SH, None):
            yield

    @contextmanager
    def alone(self, cancelled: threading.Event | None = None) -> Iterator[None]:
        """Nobody begins to use anything meanwhile. Raises StoreError (`store-busy`), InterruptedBuildError."""
        with self._held(fcntl.LOCK_EX, cancelled):
            yield

    @contextmanager
    def _held(self, kind: int, cancelled: threading.Event | None) -> Iterator[None]:
        with store_errors("opening the gate of the store"):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            until = time.monotonic() + _PATIENCE
            while not try_lock(descriptor, kind):
                if cancelled is not None and cancelled.is_set():
                    raise InterruptedBuildError
                if time.monotonic() > until:
                    raise StoreError(
                        f"{self._busy}, for more than {_PATIENCE:.0f} s now",
                        code="store-busy",
                        hint="try again when it has ended",
                    )
                time.sleep(GATE_POLL)
            yield
        finally:
            os.close(descriptor)


def try_lock(descriptor: int, kind: int) -> bool:
    """Flock a file, if that can be done at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
