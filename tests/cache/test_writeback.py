"""Files brought to the disk while they are written."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from cache import writeback
from cache.writeback import Writeback


def test_the_kernel_is_told_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []

    class Libc:
        @staticmethod
        def sync_file_range(descriptor: int, *_: object) -> int:
            told.append(descriptor)
            return 0

    monkeypatch.setattr(writeback, "_libc", Libc)
    begun = Writeback(7)
    for _ in range(100):
        begun.wrote(1 << 20)
    assert told == [7, 7, 7]
    begun.start()
    assert told == [7] * 4


def test_the_call_is_one_that_the_kernel_takes(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    zero, write = ctypes.c_int64(0), ctypes.c_uint(writeback._WRITE)
    with (tmp_path / "f").open("wb") as file:
        file.write(os.urandom(4096))
        file.flush()
        assert libc.sync_file_range(file.fileno(), zero, zero, write) == 0, os.strerror(ctypes.get_errno())
        assert libc.sync_file_range(file.fileno(), ctypes.c_int64(-1), zero, write) == -1
        assert ctypes.get_errno() == errno.EINVAL
