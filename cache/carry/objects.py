"""A cache in an object store, or wherever else fsspec reaches: s3://, gs://, file://, memory://."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from cache.carry.artifact import pack_index, unpack_index
from cache.carry.filesystem import PART, RemoteFiles
from cache.carry.index import MAX_BYTES, CacheIndex
from cache.carry.place import Change, Lost, Sink
from cache.carry.stream import damaged, missing
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.values import dataclass

MOST_SEGMENTS = 8
"""When there are more, who publishes makes one of them."""
KEPT_DAYS = 30
"""How long a blob stays after it was written, whether an entry needs it or not."""

_MOST_READ = 100
"""Segments: so many at most are read at once, the newest; the others when these have become one."""
_LISTINGS = 5
_READERS = 8
_DAY = 86400.0
_DIGITS = 15
_SEGMENT = re.compile(r"[0-9]{15}-[0-9a-f]{16}\.json\.zst")
_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Segments:
    """What was read of the index."""

    names: tuple[str, ...]
    """Of the segments that could be read, by time."""
    index: CacheIndex
    """What they say: where several know a step, the newest."""
    unread: UntrustedDataError | None = None
    """What is wrong with one that could not be read."""
    more: bool = False
    """Whether there are others that nobody looked at."""


class ObjectCache:
    """A cache below a URL.

        URL/blobs/sha256/HEX               written once; removed a month later at the soonest
        URL/index/MILLISECONDS-RANDOM.json.zst  segments of the index: written once, never changed

    Object stores have no locks, and not all compare and swap. So who publishes writes a segment of what is new, under a
    name that nobody else takes; the index is what all segments say. Who finds more than MOST_SEGMENTS writes one with
    all that they say, and then removes those that it read, and no other: nothing gets lost, whoever does so
    at the same time. A reader that finds a segment gone lists them again.
    """

    def __init__(self, url: str, options: Mapping[str, str], cancelled: threading.Event | None = None) -> None:
        """Raises as RemoteFiles, which touches most places not before they are asked."""
        self._cancelled = cancelled or threading.Event()
        self._files = RemoteFiles(url, options, self._cancelled)
        self._needed: frozenset[str] | None = None

    @property
    def label(self) -> str:
        """What to call it to the user: the URL, without a password."""
        return self._files.label

    def read(self) -> CacheIndex:
        """What is there now. Segments that make no sense count only if there are no others.

        Raises TransferError, UntrustedDataError (`cache-invalid`, `cache-version`).
        """
        found = self._segments()
        if found.unread and not found.names:
            raise found.unread
        return found.index

    def known(self, lost: Lost) -> CacheIndex:
        """As in CachePlace."""
        found = self._segments()
        if found.unread and not found.names:
            if found.unread.code == "cache-version":
                raise found.unread
            lost(found.unread)
        return found.index

    def fetch(self, digest: str, size: int, sink: Sink) -> None:
        """Raises TransferError, UntrustedDataError (`cache-damaged`), and what `sink` raises."""
        for start in range(0, size, PART):
            end = min(start + PART, size)
            part = self._files.read(_blob(digest), start, end)
            if part is None:
                raise missing(self.label, digest)
            if len(part) != end - start:
                raise damaged(self.label, digest)
            sink(part)

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob of that size is there, and will stay."""
        found = self._files.find(_blob(digest))
        if found is None or found.size != size:
            return False
        if not _is_older(found.modified, KEPT_DAYS / 2):
            return True
        # What no entry needs may go once it is old: sent again it is young.
        if self._needed is None:
            self._segments()
        return digest in (self._needed or ())

    def send(self, digest: str, size: int, media_type: str, open_blob: Callable[[], BinaryIO]) -> None:
        """Raises TransferError, UntrustedDataError (`digest-mismatch`), InterruptedBuildError."""
        if not self.has(digest, size):
            self._files.upload(_blob(digest), digest, size, open_blob)

    def publish(self, change: Change) -> bool:
        """Adds a segment; one of all, where there are many or `change` took something away."""
        found = self._segments()
        old = found.index
        new = change(old).trimmed()
        if new == old:
            return False
        kept = new.entries.keys() >= old.entries.keys() and new.mounts.keys() >= old.mounts.keys()
        if kept and len(found.names) < MOST_SEGMENTS:
            self._write(found, new.since(old))
        else:
            self._compact(found, new)
        return True

    def close(self) -> None:
        """As in CachePlace: who still reads it, in another thread, stops. The end of the process waits for them."""
        self._files.close()

    def _segments(self) -> _Segments:
        for _ in range(_LISTINGS):
            named = [one for one in self._files.list("index") if _SEGMENT.fullmatch(one.name)]
            newest = sorted(named, key=lambda one: one.name)[-_MOST_READ:]
            if sum(one.size for one in newest) > 2 * MAX_BYTES:
                raise UntrustedDataError(
                    f"the cache at {self.label} is too large: its index takes more than {2 * MAX_BYTES >> 20} MiB",
                    code="cache-invalid",
                    hint="remove what is in its folder index, or name another place",
                )
            with ThreadPoolExecutor(_READERS) as pool:
                content = list(pool.map(lambda one: self._files.read(f"index/{one.name}", 0, max(one.size, 0)), newest))
            names, index, unread = [], CacheIndex(), None
            for one, data in zip(newest, content, strict=True):
                if data is None:
                    break  # Somebody has made one of several meanwhile.
                try:
                    index = index.merged(unpack_index(data, f"index/{one.name} at {self.label}"))
                    names.append(one.name)
                except UntrustedDataError as error:
                    unread = error if unread is None or error.code == "cache-version" else unread
            else:
                self._needed = frozenset(index.blobs())
                return _Segments(tuple(names), index, unread, len(named) > len(newest))
        raise TransferError(
            f"the cache at {self.label} was changed again and again while it was read",
            code="cache-busy",
            hint="try again",
        )

    def _write(self, found: _Segments, index: CacheIndex) -> None:
        """Under a name that sorts after all that was read, whatever the clocks of who wrote that said."""
        newest = int(found.names[-1][:_DIGITS]) + 1 if found.names else 0
        stamp = min(max(time.time_ns() // 1_000_000, newest), 10**_DIGITS - 1)
        self._files.write(f"index/{stamp:0{_DIGITS}d}-{secrets.token_hex(8)}.json.zst", pack_index(index))

    def _compact(self, found: _Segments, new: CacheIndex) -> None:
        there = {f"sha256:{one.name}": one for one in self._files.list("blobs/sha256") if _BLOB.fullmatch(one.name)}
        # All blobs of what was read were there before it was read: those that are not there now have gone.
        new = new.whole({digest: one.size for digest, one in there.items()}).trimmed()
        self._write(found, new)
        self._remove(f"index/{name}" for name in found.names)
        if found.unread is None and not found.more:
            needed = new.blobs()
            old = (one for digest, one in there.items() if digest not in needed and _is_older(one.modified, KEPT_DAYS))
            self._remove(f"blobs/sha256/{one.name}" for one in old)

    def _remove(self, paths: Iterable[str]) -> None:
        with ThreadPoolExecutor(_READERS) as pool:
            for _ in pool.map(self._files.remove, paths):
                pass


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _is_older(modified: float | None, days: float) -> bool:
    """Whether it was surely written longer ago than that."""
    return modified is not None and time.time() - modified > days * _DAY
