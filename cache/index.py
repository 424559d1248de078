"""The index: small JSON values by kind and key, shared by any number of processes."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from cache.files import store_errors
from machinefile.errors import StoreError

_T = TypeVar("_T")
_NEVER_A_FILE = 1 << 40
"""Bytes: values below this size are kept in the database itself."""


class Kind(Enum):
    """What an entry of the index tells."""

    RESULT = "result"
    """definition key -> StepResult"""
    CONTENT = "content"
    """content key -> StepResult"""
    RECORD = "record"
    """definition key -> the record it was made of, for explaining: cache/records.py"""
    PAST = "past"
    """a Machinefile -> the keys that its steps had, for explaining: engine/explain/past.py"""
    BASE = "base"
    """manifest digest of a base -> what it was called, and for which platform"""
    VARIANT = "variant"
    """diff id and compression -> the blob that holds the layer so compressed"""
    MACHINE = "machine"
    """digest of an image's manifest, or of a machine's -> the machine in the store"""
    ORIGIN = "origin"
    """digest of a blob -> the repositories that it is known to be in"""
    REMOTE = "remote"
    """a web address (hashed: it may hold a password), or a digest other than sha256 -> the blob that it last gave, and
    how to ask whether it is still the same"""
    DISK = "disk"
    """name of a file in disks/ -> the diff id of the layer that it holds"""


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """An entry of the index, without its value."""

    key: str
    stored: float
    """When it was last written: seconds since 1970."""
    size: int
    """Bytes of its value."""


class Index:
    """A diskcache whose own eviction is switched off and that can hold no pickles: a store that somebody else may
    write must not run code here.

    A database that is damaged is set aside (`index.damaged`) and begun anew: what it knew is built again. Threads may
    share one: each has a connection of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache: Any = None
        self._lock = threading.Lock()

    def get(self, kind: Kind, key: str) -> object | None:
        """The value, as json.loads gives it, or None. An entry that is not JSON counts as missing."""
        raw = self._try(lambda cache: cache.get(_name(kind, key)))
        if not isinstance(raw, bytes):
            return None
        try:
            value: object = json.loads(raw)
        except ValueError:
            return None
        return value

    def has(self, kind: Kind, key: str) -> bool:
        """Whether there is an entry, whatever is in it."""
        return bool(self._try(lambda cache: _name(kind, key) in cache))

    def put(self, kind: Kind, key: str, value: object) -> None:
        """Store what json.dumps takes."""
        raw = json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
        self._try(lambda cache: cache.set(_name(kind, key), raw))

    def drop(self, kind: Kind, key: str) -> None:
        """Remove an entry, if it is there."""
        self._try(lambda cache: cache.delete(_name(kind, key)))

    def keys(self, kind: Kind) -> Iterator[str]:
        """All keys of a kind, oldest first."""
        prefix = kind.value + ":"
        names: list[object] = self._try(lambda cache: list(cache))
        for name in names:
            if isinstance(name, str) and name.startswith(prefix):
                yield name.removeprefix(prefix)

    def drop_all(self, entries: Iterable[tuple[Kind, str]]) -> None:
        """Remove many entries: all, or, if that fails, none."""
        names = [_name(kind, key) for kind, key in entries]

        def drop(cache: Any) -> None:
            with cache.transact():
                for name in names:
                    cache.delete(name)

        if names:
            self._try(drop)

    def facts(self, kind: Kind) -> Iterator[EntryFacts]:
        """What there is to know of the entries of a kind but their values, the oldest first."""
        prefix = kind.value + ":"
        # diskcache keeps these and does not give them out all at once.
        rows = self._try(
            lambda cache: _select(
                self._folder, "SELECT key, store_time, length(value) FROM Cache WHERE key BETWEEN ? AND ?", prefix
            )
        )
        for key, stored, size in rows:
            if isinstance(key, str) and key.startswith(prefix):
                yield EntryFacts(key.removeprefix(prefix), float(stored or 0), int(size or 0))

    def close(self) -> None:
        """Give back the database's files."""
        with self._lock:
            if self._cache is not None:
                self._cache.close()
                self._cache = None

    def _try(self, action: Callable[[Any], _T]) -> _T:
        for again in (True, False):
            cache = None
            try:
                with store_errors("using the index of the store"):
                    cache = self._opened()
                    return action(cache)
            except sqlite3.OperationalError as error:
                raise _refused(error) from error
            except sqlite3.DatabaseError as error:
                if not again:
                    raise StoreError(f"the store's index fails: {error}", code="store-failed") from error
                self._set_aside(cache)
            except Exception as error:
                import diskcache  # here, as everywhere: it is slow to import

                if isinstance(error, diskcache.Timeout):
                    raise _busy() from error
                raise
        raise AssertionError("unreachable")

    def _opened(self) -> Any:
        with self._lock:
            if self._cache is None:
                self._cache = _open(self._folder)
            return self._cache

    def _set_aside(self, damaged: Any) -> None:
        """Rename the database's folder, unless another thread has done so since `damaged` was opened."""
        with self._lock:
            if self._cache is not damaged:
                return
            if damaged is not None:
                damaged.close()
                self._cache = None
            self._rename_aside()

    def _rename_aside(self) -> None:
        aside = self._folder.with_name(f"{self._folder.name}.damaged.{os.getpid()}")
        with store_errors("setting a damaged index aside"), suppress(FileNotFoundError):
            self._folder.rename(aside)  # unless another process was quicker


def _refused(error: sqlite3.OperationalError) -> StoreError:
    text = str(error)
    if "full" in text:
        return StoreError(
            "no space left while using the index of the store",
            code="store-full",
            hint="free some space, or put the store elsewhere with --cache-dir",
        )
    if "readonly" in text or "unable to open" in text:
        return StoreError(
            f"the store's index cannot be written: {text}",
            code="store-read-only",
            hint="choose a folder that you may write to with --cache-dir or MBUILD_CACHE_DIR",
        )
    if "locked" in text:
        return _busy()
    return StoreError(f"the store's index fails: {text}", code="store-failed")


def _busy() -> StoreError:
    return StoreError(
        "the store's index is busy",
        code="store-failed",
        hint="another process has held it for a minute: try again when it has ended",
    )


def _select(folder: Path, query: str, prefix: str) -> list[tuple[object, float | None, int | None]]:
    """Rows of the names that begin with a prefix, read beside whoever writes."""
    with closing(sqlite3.connect(folder / "cache.db", timeout=60)) as database:
        return sorted(database.execute(query, (prefix, prefix + "\U0010ffff")), key=lambda row: row[1] or 0)


def _name(kind: Kind, key: str) -> str:
    return f"{kind.value}:{key}"


def _open(folder: Path) -> Any:
    import diskcache

    class PlainDisk(diskcache.Disk):  # type: ignore[misc] # diskcache has no types
        """Text keys and byte values, in the database; whatever else a row claims to be is not read."""

        def get(self, key: object, raw: bool) -> object:
            return key if raw and isinstance(key, str) else ""

        def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
            return bytes(value) if mode == diskcache.core.MODE_RAW and isinstance(value, bytes) else None

    return diskcache.Cache(
        str(folder),
        timeout=60,
        disk=PlainDisk,
        disk_min_file_size=_NEVER_A_FILE,
        eviction_policy="none",
        size_limit=1 << 60,
        cull_limit=0,
        statistics=0,
        tag_index=0,
    )
