"""The file of the index's database: what tells it from another, how it is opened and set aside, and what its failures
mean."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cache.reserve import is_full
from machinefile.errors import StoreError

FILE = "cache.db"
Identity = tuple[int, int]
_NEVER_A_FILE = 1 << 40
"""Bytes: values below this size are kept in the database itself."""
_PATIENCE = 60.0
"""Seconds to wait for who has the database, or makes one."""
_POLL = 0.01
"""Seconds between two looks."""


def cause(error: sqlite3.DatabaseError) -> sqlite3.DatabaseError:
    """What went wrong. diskcache rolls back after any failure, which fails itself if sqlite has done so already: it
    does when the disk is full. Source: the documentation of sqlite3_get_autocommit."""
    hidden = error.__context__
    return hidden if "cannot rollback" in str(error) and isinstance(hidden, sqlite3.DatabaseError) else error


def identity(folder: Path) -> Identity | None:
    """What tells the database's file from another of its name; None when there is none, or nothing in it."""
    try:
        status = os.stat(folder / FILE)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def rename_aside(folder: Path, damaged: Identity | None) -> None:
    """Rename a database's folder, unless somebody has put another database there. Raises OSError, StoreError."""
    # Two processes that find the same damage: the second sees that the name is another folder's by now.
    with _held(folder) as is_there:
        if is_there and damaged in (None, identity(folder)):
            _rename(folder)


def _rename(folder: Path) -> None:
    os.rename(folder, folder.with_name(f"{folder.name}.damaged.{os.urandom(6).hex()}"))


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Keeps others from making a database in a folder, and from renaming it; false when there is no such folder.

    Raises OSError; StoreError when somebody else does not let go of it.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise _busy()
            time.sleep(_POLL)
        yield _is_named(descriptor, folder)
    finally:
        os.close(descriptor)


def _is_named(descriptor: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def refused(text: str, folder: Path) -> StoreError | None:
    """What sqlite says of the machine rather than of the database; None when it speaks of that."""
    # sqlite calls it other names too when it cannot write its log.
    if "full" in text or (("disk I/O error" in text or "unable to open" in text) and is_full(folder.parent)):
        return StoreError(
            "no space left while using the index of the store",
            code="store-full",
            hint="free some space (mbuild cache prune), or put the store elsewhere with --cache-dir",
        )
    if "readonly" in text or "unable to open" in text:
        return StoreError(
            f"the store's index cannot be written: {text}",
            code="store-read-only",
            hint="choose a folder that you may write to with --cache-dir or MBUILD_CACHE_DIR",
        )
    if "locked" in text:
        return _busy()
    if "disk I/O error" in text:
        return StoreError(
            f"the store's index fails: {text}", code="store-failed", hint="look after the disk that the store is on"
        )
    return None


def _busy() -> StoreError:
    return StoreError(
        "the store's index is busy",
        code="store-failed",
        hint="another process has held it for a minute: try again when it has ended",
    )


def open_cache(folder: Path) -> Any:
    """The diskcache in a folder, made if need be. Raises sqlite3.Error, diskcache.Timeout, OSError, StoreError.

    One that was emptied, or whose file was removed, is set aside before: those who have it open hold locks that a new
    one in its place would wait for, and share memory with it. Processes make one after the other, so that none takes
    what another is about to make for such a one.
    """
    while identity(folder) is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir()
        with _held(folder) as is_there:
            if is_there and (identity(folder) is not None or not _is_used(folder)):
                return _open(folder)
            if is_there:
                _rename(folder)
    return _open(folder)


def _is_used(folder: Path) -> bool:
    """Whether there is what sqlite puts beside a database that is open."""
    return any((folder / f"{FILE}{end}").exists() for end in ("-wal", "-shm"))


def _open(folder: Path) -> Any:
    import diskcache

    class PlainDisk(diskcache.Disk):  # type: ignore[misc] # diskcache has no types
        """Text keys and byte values, in the database; whatever else a row claims to be is not read."""

        def get(self, key: object, raw: bool) -> object:
            return key if raw and isinstance(key, str) else ""

        def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
            return bytes(value) if mode == diskcache.core.MODE_RAW and isinstance(value, bytes) else None

    try:
        return diskcache.Cache(
            str(folder),
            timeout=_PATIENCE,
            disk=PlainDisk,
            disk_min_file_size=_NEVER_A_FILE,
            eviction_policy="none",
            size_limit=1 << 60,
            cull_limit=0,
            statistics=0,
            tag_index=0,
            # Whoever cuts a file that is mapped kills those who read it.
            sqlite_mmap_size=0,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # It believes whatever settings the database holds.
        raise sqlite3.DatabaseError(f"its settings make no sense: {error}") from error
