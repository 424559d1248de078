"""Begins to bring a file to the disk while it is written, so that the flush at its end finds little left to do."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_STEP = 32 << 20
"""Bytes after which the kernel is reminded."""
_WRITE = 2
"""SYNC_FILE_RANGE_WRITE of sync_file_range(2): start writing what is dirty, and do not wait for it."""


class Writeback:
    """Of one file. It promises nothing: what must last is flushed at the end all the same."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._since = 0

    def wrote(self, count: int) -> None:
        """So many more bytes were written."""
        self._since += count
        if self._since >= _STEP:
            self.start()

    def start(self) -> None:
        """Start with all that was written so far."""
        import ctypes  # 3 ms, which a build that writes little is spared

        self._since = 0
        _libc().sync_file_range(self._descriptor, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_WRITE))


@cache
def _libc() -> ctypes.CDLL:
    import ctypes

    return ctypes.CDLL(None)
