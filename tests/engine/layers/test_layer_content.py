"""Files read out of layers for COPY --from, each layer once."""

from __future__ import annotations

import gzip
import io
from functools import partial
from pathlib import Path

import pytest
import zstandard

from engine.layers.content import LayerFiles
from engine.layers.entry import Entry, EntryType
from engine.layers.root import Located, RootView
from engine.layers.tarwrite import Item, write_layer
from machinefile.errors import UntrustedDataError

BIG = bytes(range(256)) * 10_000


def layer(**files: bytes):  # type: ignore[no-untyped-def]
    out = io.BytesIO()
    items = [
        Item(Entry(path, EntryType.FILE, size=len(data)), partial(io.BytesIO, data)) for path, data in files.items()
    ]
    if "b" in files:
        items.append(Item(Entry("zlink", EntryType.HARDLINK, link="b")))
    index = write_layer([*items, Item(Entry("dir", EntryType.DIRECTORY))], out).index
    return out.getvalue(), index


LOW, LOW_INDEX = layer(a=b"low a", b=BIG, c=b"low c", empty=b"")
TOP, TOP_INDEX = layer(a=b"top a", d=b"top d")
VIEW = RootView([LOW_INDEX, TOP_INDEX])


def at(path: str) -> Located:
    located = VIEW.lookup(path)
    assert located is not None
    return located


class Counted:
    """Opens a blob and counts how often."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.opened = 0

    def __call__(self) -> io.BytesIO:
        self.opened += 1
        return io.BytesIO(self.data)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_each_layer_is_read_once_and_hard_links_are_followed(pack) -> None:  # type: ignore[no-untyped-def]
    low, top = Counted(pack(LOW)), Counted(pack(TOP))
    files = LayerFiles(VIEW.indexes, [low, top])
    wanted = [at(path) for path in ("zlink", "c", "a", "b", "d", "dir", "empty")]
    found = {}
    for located, content in files.stream(wanted):
        data = content.read()
        found.update({one.entry.path: data for one in located})
    assert found == {"a": b"top a", "b": BIG, "zlink": BIG, "c": b"low c", "d": b"top d", "empty": b""}
    assert (low.opened, top.opened) == (1, 1)


def test_a_layer_of_which_nothing_is_wanted_is_not_opened() -> None:
    low, top = Counted(LOW), Counted(TOP)
    list(LayerFiles(VIEW.indexes, [low, top]).stream([at("d")]))
    assert (low.opened, top.opened) == (0, 1)


def test_contents_that_are_not_read_are_passed_over() -> None:
    files = LayerFiles(VIEW.indexes, [Counted(LOW), Counted(TOP)])
    pieces = [(located[0].entry.path, content.read(3)) for located, content in files.stream([at("b"), at("c")])]
    assert pieces == [("b", BIG[:3]), ("c", b"low")]


def test_gathered_contents_open_in_any_order_and_at_once(tmp_path: Path) -> None:
    files = LayerFiles(VIEW.indexes, [Counted(gzip.compress(LOW)), Counted(TOP)])
    wanted = [at(path) for path in ("zlink", "c", "d", "empty")]
    with files.gather(wanted, tmp_path) as contents:
        d, link = contents.open(at("d")), contents.open(at("zlink"))
        assert link.read(5) + d.read() + link.read() == BIG[:5] + b"top d" + BIG[5:]
        assert contents.open(at("c")).read(100) == b"low c"
        assert contents.open(at("empty")).read() == b""
        with pytest.raises(KeyError):
            contents.open(at("b"))
        assert list(tmp_path.iterdir()) == []


def test_a_blob_that_ends_too_early_is_an_error() -> None:
    files = LayerFiles(VIEW.indexes, [Counted(LOW[: LOW_INDEX.offset("c") + 2]), Counted(TOP)])
    with pytest.raises(UntrustedDataError) as caught:
        [content.read() for _, content in files.stream([at("c")])]
    assert caught.value.code == "layer-truncated"
