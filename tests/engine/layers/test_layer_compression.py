"""Layer blobs: gzip, zstd or plain, bounded, and damaged ones refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import struct
import tracemalloc
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_support import pressed

from engine.layers.compression import CHUNK, GZIP_LEVEL, GzipWriter, ZstdWriter, decompress
from engine.layers.limits import LayerLimits
from machinefile.errors import UntrustedDataError, UsageError

TEXT = b"".join(b"line %d of a layer\n" % number for number in range(60_000))
NOISE = random.Random(1).randbytes(300_000)


def unpacked(blob: bytes, limits: LayerLimits | None = None) -> bytes:
    return decompress(io.BytesIO(blob), limits or LayerLimits()).read()


class Trickle:
    """A stream that gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._inner.read(1)


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(TEXT, id="plain"),
        pytest.param(gzip.compress(TEXT), id="gzip"),
        pytest.param(gzip.compress(TEXT[:70_000]) + gzip.compress(TEXT[70_000:]), id="gzip of two members"),
        pytest.param(
            b"".join(gzip.compress(TEXT[at : at + 5000]) for at in range(0, len(TEXT), 5000)), id="gzip of many members"
        ),
        pytest.param(zstandard.compress(TEXT), id="zstd"),
        pytest.param(zstandard.compress(TEXT[:9]) + zstandard.compress(TEXT[9:]), id="zstd of two frames"),
        pytest.param(
            b"".join(zstandard.compress(TEXT[at : at + 500]) for at in range(0, len(TEXT), 500)), id="zstd of many"
        ),
        pytest.param(
            struct.pack("<II", 0x184D2A50, 5) + b"hello" + zstandard.compress(TEXT) + struct.pack("<II", 0x184D2A5F, 0),
            id="zstd between skippable frames",
        ),
    ],
)
def test_every_form_gives_the_same_bytes(blob: bytes) -> None:
    assert unpacked(blob) == TEXT


@pytest.mark.parametrize("size", [*range(CHUNK - 4, CHUNK + 9), CHUNK + 258, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_gzip_ends_beside_the_edge_of_a_piece(size: int) -> None:
    for plain in (bytes(size), (b"some words again " * (size // 17 + 1))[:size]):
        assert unpacked(gzip.compress(plain, 1) * 2) == plain * 2


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes])
def test_a_stream_that_trickles_is_read_too(pack) -> None:  # type: ignore[no-untyped-def]
    data = TEXT[:3000]
    assert decompress(Trickle(pack(data)), LayerLimits()).read() == data


def test_an_empty_blob_is_an_empty_stream() -> None:
    assert unpacked(b"") == b""


@pytest.mark.parametrize("cut", [1, 4, 8, 100, 20_000])
@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_stream_cut_short_is_refused(pack, cut: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UntrustedDataError) as caught:
        unpacked(pack(NOISE)[:-cut])
    assert caught.value.code == "layer-corrupt"


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(gzip.compress(NOISE)[:2000] + b"\xff" * 50 + gzip.compress(NOISE)[2050:], id="gzip damaged"),
        pytest.param(gzip.compress(TEXT)[:-8] + b"\0" * 8, id="gzip with a wrong checksum"),
        pytest.param(gzip.compress(TEXT) + b"rubbish", id="gzip with rubbish behind it"),
        pytest.param(zstandard.compress(TEXT) + b"rubbish", id="zstd with rubbish behind it"),
        pytest.param(zstandard.compress(TEXT) + b"\x28\xb5", id="zstd with half a magic behind it"),
        pytest.param(zstandard.compress(TEXT)[:30] + bytes(40), id="zstd damaged"),
        pytest.param(struct.pack("<II", 0x184D2A50, 1000) + b"x", id="zstd skippable cut short"),
    ],
)
def test_a_damaged_stream_is_refused(blob: bytes) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        unpacked(blob)
    assert caught.value.code == "layer-corrupt"


@pytest.mark.parametrize("blob", [lzma.compress(TEXT), bz2.compress(TEXT), b"\x04\x22\x4d\x18" + TEXT[:99]])
def test_compression_that_images_do_not_use_is_named(blob: bytes) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        unpacked(blob)
    assert caught.value.code == "layer-compression"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, bytes])
def test_what_grows_beyond_the_cap_is_refused(pack) -> None:  # type: ignore[no-untyped-def]
    blob = pack(bytes(5 << 20))
    assert len(unpacked(blob, LayerLimits(max_bytes=5 << 20))) == 5 << 20
    with pytest.raises(UntrustedDataError) as caught:
        unpacked(blob, LayerLimits(max_bytes=(5 << 20) - 1))
    assert caught.value.code == "layer-too-large"


@pytest.mark.parametrize("pack", [lambda data: zlib.compress(data, 9, 31), zstandard.compress])
def test_a_bomb_does_not_fill_the_memory(pack) -> None:  # type: ignore[no-untyped-def]
    blob = pack(bytes(200 << 20))
    tracemalloc.start()
    try:
        reader = decompress(io.BytesIO(blob), LayerLimits())
        while reader.read(1 << 20):
            pass
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()
    assert reader.bytes_out == 200 << 20


def test_gzip_output_is_readable_and_says_nothing_about_its_maker() -> None:
    blob = pressed(GzipWriter, TEXT)
    assert gzip.decompress(blob) == TEXT
    assert blob[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


def test_zstd_output_is_readable() -> None:
    assert unpacked(pressed(ZstdWriter, TEXT)) == TEXT


@pytest.mark.parametrize("writer", [GzipWriter, ZstdWriter])
@given(data=st.binary(max_size=4000), cuts=st.lists(st.integers(0, 4000), max_size=8))
@settings(max_examples=30, deadline=None)
def test_how_input_is_cut_does_not_show_in_the_output(writer, data: bytes, cuts: list[int]) -> None:  # type: ignore[no-untyped-def]
    whole, pieces = io.BytesIO(), io.BytesIO()
    one, other = writer(whole), writer(pieces)
    one.write(data)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        other.write(data[start:end])
    one.finish()
    other.finish()
    assert whole.getvalue() == pieces.getvalue()


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 40 * CHUNK + 7])
def test_members_made_at_once_stand_in_their_order(size: int) -> None:
    data = os.urandom(1 << 16) * (size // (1 << 16) + 1)
    with ThreadPoolExecutor(4) as pool:
        together = pressed(GzipWriter, data[:size], GZIP_LEVEL, pool)
    assert together == pressed(GzipWriter, data[:size])
    assert gzip.decompress(together) == data[:size]


def test_a_member_that_cannot_be_made_ends_it() -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, *given: object) -> Future[bytes]:  # type: ignore[override]
            return super().submit(lambda: b"" + 1)  # type: ignore[operator]

    with Broken(2) as pool, pytest.raises(TypeError):
        pressed(GzipWriter, bytes(40 * CHUNK), GZIP_LEVEL, pool)


@given(st.binary(max_size=2000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    codes = set()
    for magic in (b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"):
        try:
            unpacked(magic + data, LayerLimits(max_bytes=1 << 20))
        except UntrustedDataError as error:
            codes.add(error.code)
    assert codes <= {"layer-corrupt", "layer-too-large", "layer-compression"}


def test_the_cap_comes_from_the_environment() -> None:
    assert LayerLimits.from_environment({}).max_bytes == 16 << 30
    assert LayerLimits.from_environment({"MBUILD_MAX_LAYER_BYTES": "1234"}).max_bytes == 1234
    assert LayerLimits.from_environment({"MBUILD_MAX_LAYER_BYTES": "32g"}).max_bytes == 32 << 30


@pytest.mark.parametrize("text", ["many", "-1", "0", "1.5G", "G", "10X"])
def test_a_cap_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        LayerLimits.from_environment({"MBUILD_MAX_LAYER_BYTES": text})
    assert caught.value.code == "bad-environment"
