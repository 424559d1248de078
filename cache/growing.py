"""A blob that is read while it is written: the reader takes what is there and waits for the rest."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from machinefile.errors import InterruptedBuildError

_CHUNK = 1 << 20


class GrowingBlob:
    """How far a blob has come. One thread writes it and says so here; any number read it.

    A reader comes to the end only when all was written and the digest was right.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._descriptor = -1
        self._size = 0
        self._ended = False
        self._whole = False

    def begin(self, descriptor: int) -> None:
        """This file is going to hold it; the descriptor stays the caller's. What was told before counts no more."""
        with self._changed:
            if not self._ended:
                self._drop()
                self._descriptor, self._size = os.dup(descriptor), 0
                self._changed.notify_all()

    def tell(self, size: int) -> None:
        """So many bytes are in the file."""
        with self._changed:
            self._size = size
            self._changed.notify_all()

    def end(self, *, whole: bool = False) -> None:
        """Nothing more comes; `whole` when everything came and was checked. The first word counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._whole = True, whole
                self._changed.notify_all()

    def open(self) -> BlobFollower | None:
        """A reader from the beginning, as soon as there is a file; None when it ended without one, or was closed."""
        with self._changed:
            while self._descriptor < 0 and not self._ended:
                self._changed.wait()
            return None if self._descriptor < 0 else BlobFollower(self, os.dup(self._descriptor))

    def close(self) -> None:
        """Nobody new may read it: it is in the store by now, or never will be."""
        with self._changed:
            self._ended = True
            self._drop()
            self._changed.notify_all()

    def _drop(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def beyond(self, offset: int) -> int:
        """Wait until there are more than `offset` bytes, and give how many there are: `offset` at the end.

        Raises InterruptedBuildError when the end came too early. Waits for as long as the writer takes, which
        must end, in whatever way.
        """
        with self._changed:
            while self._size <= offset and not self._ended:
                self._changed.wait()
            if self._size <= offset and not self._whole:
                raise InterruptedBuildError
            return self._size


class BlobFollower:
    """Reads a growing blob, from its beginning; see GrowingBlob.open. A context manager."""

    def __init__(self, blob: GrowingBlob, descriptor: int) -> None:
        self._blob = blob
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes (all that is left when negative), none at the end. Waits for them.

        Raises InterruptedBuildError when they do not come: the writer tells why.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        there = self._blob.beyond(self._at)
        # The place in the file belongs to the writer, whose descriptor this one is a copy of.
        data = os.pread(self._file.fileno(), min(size, there - self._at), self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, /) -> int:
        """Go on reading elsewhere."""
        self._at = offset
        return offset

    def __enter__(self) -> BlobFollower:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
