"""Files with holes as streams."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.machines.sparse import RunReader, digest_of_runs, write_runs
from machinefile.errors import UntrustedDataError

PAGE = 4096


def packed(path: Path) -> bytes:
    out = bytearray()
    with path.open("rb") as file:
        write_runs(file, out.extend)
    return bytes(out)


def unpack(stream: bytes, size: int, digest: str, *, step: int = 1 << 16, most: int = 1 << 30) -> bytes:
    file = io.BytesIO()
    reader = RunReader(file, size, "the part", most)
    for at in range(0, len(stream), step):
        reader.feed(stream[at : at + step])
    reader.finish(digest)
    return file.getvalue().ljust(size, b"\0")


@given(
    pages=st.lists(st.sampled_from([0, 0, 1, 255]), max_size=600),
    tail=st.integers(0, PAGE - 1),
    step=st.sampled_from([1, 7, 4096, 1 << 20]),
)
def test_a_file_comes_back_and_zeros_do_not_travel(
    tmp_path_factory: pytest.TempPathFactory, pages: list[int], tail: int, step: int
) -> None:
    path = tmp_path_factory.mktemp("sparse") / "file"
    content = b"".join(bytes([page]) * PAGE for page in pages) + b"x" * tail
    path.write_bytes(content)
    stream = packed(path)
    assert len(stream) < sum(map(bool, pages)) * (PAGE + 16) + tail + 64
    if len(stream) * (1 << 20) // step < 1 << 36:
        assert unpack(stream, len(content), digest_of_runs(path), step=max(step, len(stream) // 1000 + 1)) == content


def test_holes_and_written_zeros_are_the_same(tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense", tmp_path / "sparse"
    content = bytes(3 << 20) + b"here" + bytes((1 << 20) - 4)
    dense.write_bytes(content)
    with sparse.open("wb") as file:
        file.seek(3 << 20)
        file.write(b"here")
        file.truncate(len(content))
    assert packed(dense) == packed(sparse)
    assert len(packed(dense)) == 16 + 16 + PAGE + 16


MAGIC = b"MBRUNS\0\1" + struct.pack("<Q", 8192)
END = struct.pack("<QQ", 8192, 0)


def run(offset: int, length: int) -> bytes:
    return struct.pack("<QQ", offset, length) + b"x" * min(length, 1 << 16)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"MBRUNS\0\2" + MAGIC[8:] + END,
        MAGIC,
        MAGIC + run(0, 4096),
        MAGIC + run(4096, 8192) + END,
        MAGIC + run(1 << 63, 16) + END,
        MAGIC + run(0, 1 << 40),
        MAGIC + run(4096, 4096) + run(0, 4096) + END,
        MAGIC + run(0, 4096) + run(0, 4096) + END,
        MAGIC + struct.pack("<QQ", 0, 0) + END,
        MAGIC + END + b"\0",
        MAGIC + END + END,
        MAGIC[:8] + struct.pack("<Q", 4096) + END,
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(stream: bytes) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        unpack(stream, 8192, "sha256:" + "0" * 64)
    assert caught.value.code == "machine-corrupt"


def test_another_digest_and_too_much_are_refused() -> None:
    stream = MAGIC + run(0, 4096) + END
    with pytest.raises(UntrustedDataError) as caught:
        unpack(stream, 8192, "sha256:" + "0" * 64)
    assert caught.value.code == "digest-mismatch"
    with pytest.raises(UntrustedDataError) as caught:
        unpack(stream, 8192, "", most=4095)
    assert caught.value.code == "layer-too-large"
