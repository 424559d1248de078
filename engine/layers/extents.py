"""Contents that lie in pieces in a larger file, of which there may be many at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

Extent = tuple[int, int]
"""Offset, or HOLE, and length; bytes."""
HOLE = -1
ReadAt = Callable[[int, int], bytes]
"""Gives up to so many bytes from an offset; none behind the end."""


def reading(stream: BinaryIO) -> ReadAt:
    """Reads anywhere in a stream, without moving in it where it is a file."""
    try:
        descriptor = stream.fileno()
    except OSError:  # it is in memory

        def seek_and_read(offset: int, size: int) -> bytes:
            stream.seek(offset)
            return stream.read(size)

        return seek_and_read
    return lambda offset, size: os.pread(descriptor, size, offset)


class Scattered:
    """The extents, one after the other, read as a file of its own."""

    def __init__(self, read_at: ReadAt, extents: tuple[Extent, ...]) -> None:
        self._read_at = read_at
        self._extents = extents
        self._next = 0
        self._at = self._left = 0
        """What is left of the extent that is being read."""

    def reopened(self) -> Scattered:
        """The same from its start."""
        return Scattered(self._read_at, self._extents)

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes (all that is left when negative); none at the end."""
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        if not self._left:
            if self._next == len(self._extents):
                return b""
            self._at, self._left = self._extents[self._next]
            self._next += 1
        count = min(size, self._left)
        data = bytes(count) if self._at == HOLE else self._read_at(self._at, count)
        self._left -= len(data)
        if self._at != HOLE:
            self._at += len(data)
        return data
