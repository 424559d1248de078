"""Layers with another time on all that is in them."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers.compression import Source
from engine.layers.entry import Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.stamp import stamp
from engine.layers.tarread import TarStream
from engine.layers.tarwrite import Item, write_layer
from engine.layers.times import MAX_TIME
from machinefile.errors import UntrustedDataError

from .test_layer_round_trips import LAYERS, tar_of


def stamped(source: Source, seconds: int, limits: LayerLimits | None = None) -> bytes:
    out = io.BytesIO()
    stamp(TarStream(source, hashed=False), out, seconds, limits or LayerLimits())
    return out.getvalue()


@given(LAYERS, st.integers(0, MAX_TIME))
@settings(max_examples=150, deadline=None)
def test_a_layer_comes_out_as_if_it_had_been_written_with_that_time(items: dict[str, Item], seconds: int) -> None:
    data, _ = tar_of(items)
    timed = {path: Item(replace(item.entry, mtime=seconds), item.open) for path, item in items.items()}
    assert stamped(io.BytesIO(data), seconds) == tar_of(timed)[0]


def test_other_writers_tars_keep_all_but_their_times() -> None:
    long = "d/" + "n" * 150
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name, content in ((long, b"x" * 700), ("short", b"y")):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.uname = len(content), 1234.5, "é"  # type: ignore[assignment]
                tar.addfile(entry, io.BytesIO(content))
        with tarfile.open(fileobj=io.BytesIO(stamped(io.BytesIO(out.getvalue()), 99))) as tar:
            found = {entry.name: (entry.mtime, entry.uname, tar.extractfile(entry).read()) for entry in tar}  # type: ignore[union-attr]
        assert found == {long: (99, "é", b"x" * 700), "short": (99, "é", b"y")}


def test_a_content_of_more_than_a_chunk_goes_through() -> None:
    content = bytes(range(256)) * 10_000
    out = io.BytesIO()
    write_layer([Item(Entry("big", EntryType.FILE, size=len(content)), lambda: io.BytesIO(content))], out)
    with tarfile.open(fileobj=io.BytesIO(stamped(io.BytesIO(out.getvalue()), 7))) as tar:
        (entry,) = tar
        assert (entry.mtime, tar.extractfile(entry).read()) == (7, content)  # type: ignore[union-attr]


def test_what_is_cut_or_damaged_is_refused() -> None:
    out = io.BytesIO()
    write_layer([Item(Entry("f", EntryType.FILE, size=2000), lambda: io.BytesIO(bytes(2000)))], out)
    with pytest.raises(UntrustedDataError) as refused:
        stamped(io.BytesIO(out.getvalue()[:1000]), 1)
    assert refused.value.code == "layer-truncated"
    with pytest.raises(UntrustedDataError) as refused:
        stamped(io.BytesIO(b"g" + out.getvalue()[1:]), 1)
    assert refused.value.code == "layer-header"


def test_an_extension_header_has_a_limit() -> None:
    out = io.BytesIO()
    write_layer([Item(Entry("n" * 3000, EntryType.DIRECTORY))], out)
    with pytest.raises(UntrustedDataError) as refused:
        stamped(io.BytesIO(out.getvalue()), 1, replace(LayerLimits(), max_pax=1000))
    assert refused.value.code == "layer-header"


@given(LAYERS, st.integers(0, MAX_TIME))
@settings(max_examples=60, deadline=None)
def test_clamped_is_what_is_later_alone(items: dict[str, Item], seconds: int) -> None:
    data, _ = tar_of(items)
    timed = {
        path: Item(replace(item.entry, mtime=min(item.entry.mtime, seconds)), item.open) for path, item in items.items()
    }
    out = io.BytesIO()
    stamp(TarStream(io.BytesIO(data), hashed=False), out, seconds, LayerLimits(), clamp=True)
    assert out.getvalue() == tar_of(timed)[0]


def test_clamping_heeds_the_times_that_other_writers_put_elsewhere() -> None:
    long, out = "n" * 150, io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, time in ((long, 99.25), ("early", 98.5), ("plain", 100), ("far", 1 << 34), ("before", -7.5)):
            entry = tarfile.TarInfo(name)
            entry.mtime, entry.pax_headers = time, {"ctime": "1234567.5"}  # type: ignore[assignment]
            tar.addfile(entry)
    stream, clamped = TarStream(io.BytesIO(out.getvalue()), hashed=False), io.BytesIO()
    stamp(stream, clamped, 99, LayerLimits(), clamp=True)
    clamped.seek(0)
    with tarfile.open(fileobj=clamped) as tar:
        found = {entry.name: entry.mtime for entry in tar}
        assert all("ctime" not in entry.pax_headers for entry in tar)
    assert found == {long: 99, "early": 98.5, "plain": 99, "far": 99, "before": -7.5}
