"""Bytes passed on in another thread."""

from __future__ import annotations

import hashlib
import threading

import pytest

from engine.layers.conveyor import Conveyor, conveyed


def test_all_arrives_in_its_order_whatever_the_sizes() -> None:
    pieces = [bytes([number % 251]) * size for number, size in enumerate([1, 40_000, 0, 7, 2_000_000, 31_999] * 30)]
    taken = bytearray()
    with conveyed(taken.extend, "test") as out:
        for piece in pieces:
            out.write(piece)
        out.finish()
    assert taken == b"".join(pieces)


def test_what_the_taker_raises_is_raised_by_who_writes() -> None:
    def full(piece: bytes | bytearray) -> None:
        raise OSError(28, "full")

    def write_much(out: Conveyor) -> None:
        for _ in range(100):
            out.write(bytes(1 << 16))

    with conveyed(full, "test") as out, pytest.raises(OSError, match="full"):
        write_much(out)
    with conveyed(full, "test") as out:
        out.write(b"x")
        with pytest.raises(OSError, match="full"):
            out.finish()


def test_one_that_is_abandoned_takes_no_more() -> None:
    go, taken = threading.Event(), []

    def slow(piece: bytes | bytearray) -> None:
        go.wait(20)
        taken.append(len(piece))

    conveyor = Conveyor(slow, "test")
    for _ in range(5):
        conveyor.write(bytes(1 << 16))
    threading.Timer(0.01, go.set).start()
    conveyor.abandon()
    assert len(taken) <= 1
    assert "test" not in [thread.name for thread in threading.enumerate()]


def test_little_is_under_way() -> None:
    """Who writes faster than the taker takes is held up."""
    piece, written, ahead = bytes(1 << 20), [0], []

    def slow(data: bytes | bytearray) -> None:
        hashlib.sha512(data)
        ahead.append(written[0] - len(ahead))

    with conveyed(slow, "test") as out:
        for _ in range(100):
            out.write(piece)
            written[0] += 1
        out.finish()
    assert len(ahead) == 100
    assert max(ahead) <= 10
