"""Files that are in use already while they are brought to the drive."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cache.files import file_digest, sync_directory
from cache.seals import Seals, Stamp, stamp_of
from cache.spans import span

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor


class Settling:
    """Flushes files in a thread of its own, one after another, and seals them for good when they last.

    For what nobody waits for, and can be made again: should the machine go down before that, a file is compared with
    its digest when it is next used, or made anew.
    """

    def __init__(self, seals: Seals) -> None:
        self._seals = seals
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._begun: set[tuple[Path, Stamp]] = set()

    def begin(self, path: Path, digest: str = "") -> None:
        """The file at `path` is right, in its place, and not flushed, as far as is known. `digest` is of its content;
        it is computed meanwhile where it is not known. Any thread may call this, but not while it is closed."""
        from concurrent.futures import ThreadPoolExecutor

        stamp = stamp_of(path)
        with self._lock:
            if stamp is None or (path, stamp) in self._begun:
                return
            self._begun.add((path, stamp))
            self._seals.put(path, digest, lasts=False)
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "settle")
            self._executor.submit(self._settle, path, stamp, digest)

    def close(self, *, wait: bool = True) -> None:
        """Come to the end of what was begun; unless that is to be waited for, of no more than the file at hand."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=not wait)
            self._executor = None

    def _settle(self, path: Path, stamp: Stamp, digest: str) -> None:
        with span("settle", "layer", file=path.name):
            try:
                digest = digest or file_digest(path)
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                sync_directory(path.parent)
            except OSError:
                # It is gone, or cannot be brought to the drive: then the kernel may forget what was to be there.
                self._seals.drop(path)
                return
            if stamp_of(path) == stamp:
                self._seals.put(path, digest)
