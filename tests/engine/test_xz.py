"""xz files as they come: streams one after another, padded, damaged, and such that ask for much memory."""

from __future__ import annotations

import io
import lzma
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.xz import XzFile, XzMemoryError


@given(
    st.lists(st.tuples(st.binary(max_size=200), st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(1, 100),
)
def test_streams_one_after_another_are_one_text(parts: list[tuple[bytes, int]], step: int) -> None:
    data = b"".join(lzma.compress(text) + bytes(4 * padding) for text, padding in parts)
    with XzFile(io.BytesIO(data)) as file:
        found = b"".join(iter(lambda: file.read(step) or b"", b""))
    assert found == b"".join(text for text, _ in parts)


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:40], lambda data: data + b"more"])
def test_what_is_damaged_or_cut_is_an_error(spoil) -> None:  # type: ignore[no-untyped-def]
    with XzFile(io.BytesIO(spoil(lzma.compress(bytes(range(256)))))) as file, pytest.raises(OSError, match="xz stream"):
        file.readall()


def test_what_wants_much_memory_gets_none() -> None:
    data = lzma.compress(b"little", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28}])
    with XzFile(io.BytesIO(data)) as file, pytest.raises(XzMemoryError, match="MiB of memory"):
        file.readall()


def test_the_highest_level_of_xz_is_read() -> None:
    with XzFile(io.BytesIO(lzma.compress(b"text", preset=9 | lzma.PRESET_EXTREME))) as file:
        assert file.readall() == b"text"


def test_a_bomb_is_given_in_pieces() -> None:
    data = lzma.compress(bytes(64 << 20))
    tracemalloc.start()
    with io.BufferedReader(XzFile(io.BytesIO(data))) as file:
        while file.read(1 << 16):
            pass
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


def test_the_file_below_is_closed_too() -> None:
    below = io.BytesIO(lzma.compress(b"text"))
    XzFile(below).close()
    assert below.closed
