"""Private folders of running machines, and the sweeping of those whose mbuild died.

VM_DIR/run/               flocked while a folder is made in it, or folders are swept
           XXXXXXXX/      one a machine
                    lock  flocked by the mbuild that owns it, for as long as it lives
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.gate import try_lock
from machinefile.errors import HostError, InterruptedBuildError

_GRACE = 60.0
"""Seconds that a folder may be without its lock: its owner may be removing it, or about to make the lock where
folders cannot be flocked."""
_POLL = 0.02
"""Seconds between two tries. flock has no deadline of its own, and a signal would not wake a thread out of it."""
_LOOK = 1.0
"""Seconds between two looks at what a machine has written."""
_MOST_LOGGED = 64 << 20
"""Bytes of a log."""
_SLACK = 64 << 20
_LOGS = ("serial.log", "qemu.err")


@contextmanager
def run_folder(parent: Path) -> Iterator[Path]:
    """A new folder, removed on leaving."""
    parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(parent):
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=""))
        try:
            lock = (folder / "lock").open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> int:
    """Remove the folders that nobody owns any more; gives their number."""
    if not parent.is_dir():
        return 0
    removed = 0
    with _alone_in(parent):
        for folder in parent.iterdir():
            if _abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
                removed += 1
    return removed


@contextmanager
def _alone_in(parent: Path) -> Iterator[None]:
    """Nobody else makes or sweeps folders there meanwhile."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # of network file systems, some flock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
def file_lock(path: Path, cancelled: threading.Event) -> Iterator[None]:
    """Holds a lock among processes and threads; death releases it. Raises InterruptedBuildError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        wait_for_lock(descriptor, fcntl.LOCK_EX, cancelled)
        yield
    finally:
        os.close(descriptor)


def wait_for_lock(
    descriptor: int, kind: int, cancelled: threading.Event, waiting: Callable[[], None] | None = None
) -> None:
    """Flock a file; `waiting` is called once if that cannot be done at once. Raises InterruptedBuildError."""
    while not try_lock(descriptor, kind):
        if waiting is not None:
            waiting()
            waiting = None
        if cancelled.wait(_POLL):
            raise InterruptedBuildError


class Growth:
    """Looks at what a machine writes into its folder: who is root in it can write to the disk of the changed files,
    which is sparse and far larger than what it may take, and to the console.

    `disk`: bytes of its scratch disk. The changed files take as much at most; the slack is for their records.
    """

    def __init__(self, folder: Path, disk: int) -> None:
        self._folder = folder
        self._most_changes = disk + disk // 8 + _SLACK
        self._next_look = 0.0

    def check(self) -> None:
        """To be called often. Raises HostError `vm-disk-exceeded`."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        self._check("changes", self._most_changes, "to the disk for the changed files")
        for name in _LOGS:
            self._check(name, _MOST_LOGGED, "to its console" if name == "serial.log" else "of QEMU's messages")

    def _check(self, name: str, most: int, what: str) -> None:
        try:
            taken = (self._folder / name).stat().st_blocks * 512
        except OSError:
            return
        if taken > most:
            raise HostError(
                f"the microVM was ended: it wrote {taken >> 20} MiB {what}, and may write {most >> 20} MiB",
                code="vm-disk-exceeded",
                hint="if the step writes to no devices itself, give it a larger disk with MACHINE disk=",
            )
