"""The index: small JSON values by kind and key, shared by any number of processes."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from cache.database import FILE, Identity, cause, identity, open_cache, refused, rename_aside
from cache.files import store_errors
from cache.reader import Reader
from machinefile.errors import StoreError
from machinefile.values import dataclass

_T = TypeVar("_T")
_PAGE = 256
"""Entries that are read at once."""
_SMALL = 16 << 10
"""Bytes of a value that is read with others."""
_LAST = "\U0010ffff"
"""After all characters that a key has."""
_MARK = b"sum "
"""JSON never begins like this."""


class Kind(Enum):
    """What an entry of the index tells."""

    RESULT = "result"
    """definition key -> StepResult"""
    CONTENT = "content"
    """content key -> StepResult"""
    CHAIN = "chain"
    """what is in it (hashed) -> a part of the steps that long results begin with: cache/chains.py"""
    RECORD = "record"
    """definition key -> the record it was made of, for explaining: cache/records.py"""
    PAST = "past"
    """a Machinefile -> the keys that its steps had, for explaining: engine/explain/past.py"""
    BASE = "base"
    """manifest digest of a base -> what it was called, and for which platform"""
    VARIANT = "variant"
    """diff id and compression -> the blob that holds the layer so compressed"""
    STAMPED = "stamped"
    """a time and a diff id -> the plain blob of that layer with that time on all that is in it; `until` a time: on all
    that is later"""
    MACHINE = "machine"
    """digest of an image's manifest, or of a machine's -> the machine in the store"""
    ORIGIN = "origin"
    """digest of a blob -> the repositories that it is known to be in"""
    REMOTE = "remote"
    """a web address (hashed: it may hold a password), or a digest other than sha256 -> the blob that it last gave, and
    how to ask whether it is still the same"""
    SEAL = "seal"
    """a file of the store, by its path in it -> what it was when its content was known to be right: cache/seals.py"""
    PROVENANCE = "provenance"
    """digest of an image's manifest -> what its provenance says, for attesting it later: engine/attest/provenance.py"""
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

        index/                      the database
        index.damaged.<random>/     one that was set aside, to be looked at or collected

    Each value is kept with a checksum that its name went into: one that was changed, or that is another entry's,
    counts as missing. A database that is damaged is set aside and begun anew: what it knew is built again. Threads may
    share one. What is there is read over a connection that only reads: diskcache writes its settings whenever it is
    opened, a hundred statements that a build in which nothing is new can do without.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache: Any = None
        self._identity: Identity | None = None
        """Of the database's file that is open."""
        self._lock = threading.Lock()
        self._reader = Reader(folder)

    def get(self, kind: Kind, key: str) -> object | None:
        """The value, as json.loads gives it, or None. An entry that is damaged counts as missing."""
        name = _name(kind, key)
        raw = self._read(name)
        try:
            return _unwrapped(name, raw) if isinstance(raw, bytes) else None
        except ValueError:
            return None

    def content(self, kind: Kind, key: str) -> bytes | None:
        """The JSON of an entry, not parsed, or None. An entry that is damaged counts as missing."""
        name = _name(kind, key)
        raw = self._read(name)
        try:
            return _content(name, raw) if isinstance(raw, bytes) else None
        except ValueError:
            return None

    def is_sound(self, kind: Kind, key: str) -> bool:
        """Whether an entry that is there can be read; true of one that is not there."""
        name, absent = _name(kind, key), object()
        raw = self._try(lambda cache: cache.get(name, absent))
        try:
            return raw is absent or (isinstance(raw, bytes) and _unwrapped(name, raw) is not None)
        except ValueError:
            return False

    def has(self, kind: Kind, key: str) -> bool:
        """Whether there is an entry, whatever is in it."""
        return bool(self.present([(kind, key)]))

    def present(self, entries: Sequence[tuple[Kind, str]]) -> set[tuple[Kind, str]]:
        """Those of the entries that there are, whatever is in them."""
        names = {_name(kind, key): (kind, key) for kind, key in entries}
        found = self._among("SELECT key FROM Cache WHERE raw = 1 AND key IN", list(names))
        if found is None:  # no database, or a damaged one: diskcache's to make
            there = self._try(lambda cache: [name for name in names if name in cache])
            return {names[name] for name in there}
        return {names[name] for (name,) in found}

    def contents(self, kind: Kind, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Of many keys those that have an entry, as `content` gives it, read at once; None for one that is damaged, and
        for one of more than 16 KiB, which has to be asked for alone."""
        names = {_name(kind, key): key for key in keys}
        found = self._among(
            f"SELECT key, CASE WHEN mode = 1 AND length(value) <= {_SMALL} THEN value END FROM Cache"  # noqa: S608
            " WHERE raw = 1 AND key IN",
            list(names),
        )
        if found is None:
            return {key: None for key in keys if self.has(kind, key)}
        contents: dict[str, bytes | None] = {}
        for name, raw in found:
            with suppress(ValueError):
                contents[names[name]] = None
                contents[names[name]] = _content(name, raw) if isinstance(raw, bytes) else None
        return contents

    def _among(self, query: str, names: list[str]) -> list[Any] | None:
        """The rows that a query finds for any of the names; None where they cannot be read."""
        found: list[Any] = []
        try:
            for start in range(0, len(names), _PAGE):
                some = names[start : start + _PAGE]
                rows = self._reader.rows(f"{query} ({','.join('?' * len(some))})", *some)
                if rows is None:
                    return None
                found += rows
        except sqlite3.Error:
            return None
        return found

    def put(self, kind: Kind, key: str, value: object) -> None:
        """Store what json.dumps takes."""
        name = _name(kind, key)
        raw = _wrapped(name, json.dumps(value, separators=(",", ":"), sort_keys=True).encode())
        self._try(lambda cache: cache.set(name, raw))

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
        """Remove many entries: all, or, if that fails, none; where the disk has no room for that, in parts."""
        self._drop([(_name(kind, key),) for kind, key in entries])

    def _drop(self, names: list[tuple[str]]) -> None:
        def drop(_: object) -> None:
            # diskcache looks each one up first; what it counts, triggers of the database keep right.
            with closing(sqlite3.connect(self._folder / FILE, timeout=60, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = NORMAL")  # as diskcache has it
                database.execute("BEGIN IMMEDIATE")
                database.executemany("DELETE FROM Cache WHERE key = ? AND raw = 1", names)
                database.execute("COMMIT")

        try:
            if names:
                self._try(drop)
        except StoreError as error:
            if error.code != "store-full" or len(names) == 1:
                raise
            half = len(names) // 2
            self._drop(names[:half])
            self._drop(names[half:])

    def facts(self, kind: Kind) -> Iterator[EntryFacts]:
        """What there is to know of the entries of a kind but their values, the oldest first."""
        prefix = kind.value + ":"
        # diskcache keeps these and does not give them out all at once.
        rows = self._select(
            "SELECT key, store_time, length(value) FROM Cache WHERE key BETWEEN ? AND ?", prefix, prefix + _LAST
        )
        for key, stored, size in sorted(rows, key=lambda row: row[1] or 0):
            if isinstance(key, str) and key.startswith(prefix):
                yield EntryFacts(key.removeprefix(prefix), float(stored or 0), int(size or 0))

    def entries(self, kind: Kind) -> Iterator[tuple[EntryFacts, object | None]]:
        """The entries of a kind by their keys, each with its value, None for one that is damaged. Reads many at once,
        and what is written meanwhile may be there or not."""
        prefix = last = kind.value + ":"
        while True:
            rows = self._select(
                "SELECT key, store_time, value FROM Cache WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
                last,
                prefix + _LAST,
                _PAGE,
            )
            for name, stored, raw in rows:
                content = raw if isinstance(raw, bytes) else b""
                try:
                    value = _unwrapped(name, content)
                except ValueError:
                    value = None
                yield EntryFacts(name.removeprefix(prefix), float(stored or 0), len(content)), value
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def stored_since(self, since: float) -> Iterator[tuple[Kind, str]]:
        """The entries that were written from then on (seconds since 1970)."""
        kinds = {kind.value: kind for kind in Kind}
        for (name,) in self._select("SELECT key FROM Cache WHERE store_time >= ?", since):
            kind, _, key = name.partition(":") if isinstance(name, str) else ("", "", "")
            if kind in kinds:
                yield kinds[kind], key

    def _select(self, query: str, *parameters: object) -> list[Any]:
        """Rows, read beside whoever writes."""

        def select(_: object) -> list[Any]:
            with closing(sqlite3.connect(self._folder / FILE, timeout=60)) as database:
                return database.execute(query, parameters).fetchall()

        return self._try(select)

    def set_aside(self) -> tuple[Path, ...]:
        """The damaged databases beside this one, which nothing needs."""
        return tuple(sorted(self._folder.parent.glob(f"{self._folder.name}.damaged.*")))

    def close(self) -> None:
        """Give back the database's files."""
        with self._lock:
            self._let_go()
        self._reader.close()

    def _read(self, name: str) -> object:
        try:
            rows = self._reader.rows("SELECT value FROM Cache WHERE key = ? AND raw = 1 AND mode = 1", name)
        except sqlite3.Error:
            rows = None
        # What is not there, or is damaged, is diskcache's to make.
        return self._try(lambda cache: cache.get(name)) if rows is None else rows[0][0] if rows else None

    def _try(self, action: Callable[[Any], _T]) -> _T:
        for again in (True, False):
            try:
                with store_errors("using the index of the store"):
                    return action(self._opened())
            except sqlite3.DatabaseError as error:
                failure = cause(error)
            except Exception as error:
                import diskcache  # here, as everywhere: it is slow to import

                if not isinstance(error, diskcache.Timeout):
                    raise
                # A Timeout stands for whatever kept a change from beginning.
                hidden = error.__context__
                failure = hidden if isinstance(hidden, sqlite3.DatabaseError) else sqlite3.OperationalError("locked")
            self._mend(failure, again=again)
        raise AssertionError("unreachable")

    def _opened(self) -> Any:
        with self._lock:
            # Another process may have set the database aside, and somebody may have removed it: what is written to
            # a file without a name is lost.
            if self._cache is None or self._identity != identity(self._folder):
                self._let_go()
                self._identity = identity(self._folder)  # also of one that cannot be opened
                self._cache = open_cache(self._folder)
                self._identity = identity(self._folder)
            return self._cache

    def _mend(self, failure: sqlite3.DatabaseError, *, again: bool) -> None:
        """Make a second try worth it, or raise StoreError."""
        with self._lock:
            opened = self._identity
            self._let_go()
            if again and opened is not None and opened != identity(self._folder):
                return
            if isinstance(failure, sqlite3.OperationalError) and not self._is_no_database():
                text = str(failure)
                if again and "disk I/O error" in text:  # its files changed under the connection, or the disk fails
                    return
                if refusal := refused(text, self._folder):
                    raise refusal from failure
            if not again:
                raise StoreError(f"the store's index fails: {failure}", code="store-failed") from failure
            with store_errors("setting a damaged index aside"):
                rename_aside(self._folder, opened)

    def _is_no_database(self) -> bool:
        """Whether something stands where the database should be that sqlite cannot even open."""
        return (self._folder.exists() and not self._folder.is_dir()) or (self._folder / FILE).is_dir()

    def _let_go(self) -> None:
        cache, self._cache, self._identity = self._cache, None, None
        if cache is not None:
            cache.close()


def _wrapped(name: str, content: bytes) -> bytes:
    return _MARK + _sum(name, content) + b"\n" + content


def _unwrapped(name: str, raw: bytes) -> object:
    """The value of an entry. Raises ValueError when it is damaged or another's."""
    try:
        value: object = json.loads(_content(name, raw))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def _content(name: str, raw: bytes) -> bytes:
    """The JSON of an entry. Raises ValueError when it is damaged or another's."""
    if not raw.startswith(_MARK):
        return raw  # written before there was a mark
    head, _, content = raw.removeprefix(_MARK).partition(b"\n")
    if head != _sum(name, content):
        raise ValueError("the checksum is wrong")
    return content


def _sum(name: str, content: bytes) -> bytes:
    whole = name.encode("utf-8", "surrogateescape") + b"\n" + content
    return hashlib.sha256(whole).hexdigest()[:32].encode()


def _name(kind: Kind, key: str) -> str:
    return f"{kind.value}:{key}"
