"""What the files of a context hashed to before, so that a build reads only those that changed."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from cache.files import store_errors, write_atomically
from machinefile.errors import StoreError

SAFE_AGE = 3 * 10**9
"""Nanoseconds that a file must have lain still before it was hashed. One that is written to a second time soon after
may keep its times: those of file systems are as coarse as 2 s (FAT). Source: git's Documentation/technical/racy-git."""
MOST_FILES = 500_000
"""Remembered of one folder."""
KEPT_DAYS = 30
"""What no build asked for in so many days is forgotten."""

_MAGIC = b"mbuild context 1\n"
_STAMP = struct.Struct("=5Q")
STAMP_BYTES = _STAMP.size
_DAY = struct.Struct("=I")
_DIGEST_BYTES = 32
_ENTRY = _STAMP.size + _DAY.size + _DIGEST_BYTES
_REFRESHED_DAYS = 7
_DAY_NS = 86_400 * 10**9
_WORD = (1 << 64) - 1


def stamp_of(status: os.stat_result) -> bytes:
    """What does not stay the same when a file is written to or replaced: device, inode, size, mtime, ctime."""
    return _STAMP.pack(
        status.st_dev & _WORD,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns & _WORD,
        status.st_ctime_ns & _WORD,
    )


class ContextDigests:
    """The digests of the files of one folder of the host, in one file of the store.

        17 bytes     the form of the file
        32 bytes     the sha256 of what follows
        76 bytes     a file each: its stamp (5 x 64 bits), the day it was last asked for, its sha256; what comes later
                     counts

    Read at once when it is first asked, written at once by `save`. There is neither a name nor content in it. A file
    that is damaged, or gone, is one that knows nothing. Threads may share one.

    The stamp is enough: whoever writes to a file changes its ctime, which nobody can set back. What a program writes
    into a file through memory that it mapped long before may show in its times only later.
    """

    def __init__(self, path: Path, temporary: Path, now: Callable[[], int] = time.time_ns) -> None:
        """`path` is the file, `temporary` a folder on its file system; `now` gives nanoseconds since 1970."""
        self.now = now
        self._path = path
        self._temporary = temporary
        self._known: dict[bytes, bytes] | None = None
        self._news: dict[bytes, bytes] = {}
        self._today = now() // _DAY_NS

    def take(self, stamp: bytes) -> bytes | None:
        """The sha256 of the file that has that stamp. Told once: who asks for 100,000 files remembers them too."""
        if self._known is None:
            self._known = _entries(self._body())
        value = self._known.pop(stamp, None)
        if value is None:
            return None
        if not self._known:
            self._known = {}  # a dictionary stays as large as it was
        if self._age(value) > _REFRESHED_DAYS:
            self._news[stamp] = _DAY.pack(self._today) + value[_DAY.size :]
        return value[_DAY.size :]

    def learn(self, status: os.stat_result, digest: bytes, begun: int) -> None:
        """Remember the sha256 of a file that was read from `begun` on, unless it was new then."""
        if max(status.st_mtime_ns, status.st_ctime_ns) + SAFE_AGE <= begun:
            self._news[stamp_of(status)] = _DAY.pack(self._today) + digest

    def save(self) -> None:
        """Write what was learned, beside what other processes wrote meanwhile. What cannot be written is hashed again
        the next time."""
        if not self._news:
            return
        body = self._body()
        if self._written_today() and len(body) // _ENTRY + len(self._news) <= MOST_FILES:
            body += _joined(self._news.items())
        else:
            body = self._renewed(body)
        with suppress(StoreError), store_errors("remembering the files of a context"):
            self._path.parent.mkdir(exist_ok=True)
            write_atomically(self._path, _MAGIC + hashlib.sha256(body).digest() + body, self._temporary)
            self._news = {}

    def _written_today(self) -> bool:
        """Whether what is too old was left out today already."""
        with suppress(OSError):
            return self._path.stat().st_mtime_ns // _DAY_NS == self._today
        return False

    def _renewed(self, body: bytes) -> bytes:
        known = {stamp: value for stamp, value in _entries(body).items() if abs(self._age(value)) <= KEPT_DAYS}
        known.update(self._news)
        entries = list(known.items())
        if len(entries) > MOST_FILES:
            entries = sorted(entries, key=lambda entry: self._age(entry[1]))[:MOST_FILES]
        return _joined(entries)

    def _age(self, value: bytes) -> int:
        """Days."""
        day: int = _DAY.unpack_from(value)[0]
        return self._today - day

    def _body(self) -> bytes:
        head = len(_MAGIC) + hashlib.sha256().digest_size
        try:
            with self._path.open("rb") as file:
                data = file.read(head + MOST_FILES * _ENTRY + 1)
        except OSError:
            return b""
        body = data[head:]
        whole = data.startswith(_MAGIC) and len(body) % _ENTRY == 0 and len(body) <= MOST_FILES * _ENTRY
        if not whole or data[len(_MAGIC) : head] != hashlib.sha256(body).digest():
            return b""
        return body


def _entries(body: bytes) -> dict[bytes, bytes]:
    cut = _STAMP.size
    return {body[at : at + cut]: body[at + cut : at + _ENTRY] for at in range(0, len(body), _ENTRY)}


def _joined(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([stamp + value for stamp, value in entries])


class KnownContexts:
    """Those of the folders that one build reads."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        """`folder` may be missing, and so may any file in it, at any time."""
        self._folder = folder
        self._temporary = temporary
        self._opened: list[ContextDigests] = []

    def of(self, root: Path) -> ContextDigests:
        """What is known of a folder of the host, by its real path."""
        name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()
        digests = ContextDigests(self._folder / name, self._temporary)
        self._opened.append(digests)
        return digests

    def save(self) -> None:
        """Write what was learned of any of them."""
        for digests in self._opened:
            digests.save()
