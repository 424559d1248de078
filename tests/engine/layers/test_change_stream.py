"""What a guest says a step changed, read strictly, and the layer that comes of it."""

from __future__ import annotations

import io
import struct
import tempfile
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers.changeformat import HEADER, RECORD_MAGIC, STREAM_MAGIC, ZEROS, RecordType
from engine.layers.changes import layer_from_changes, read_changes
from engine.layers.changes_write import ChangeWriter, write_changes
from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.tarwrite import Item
from engine.layers.times import KEPT
from machinefile.errors import MbuildError, StepError, UntrustedDataError

LIMITS = LayerLimits(max_bytes=1 << 24)
ROOT = Entry("", EntryType.DIRECTORY, 0o755)
DIR = Entry("d", EntryType.DIRECTORY, 0o755)


def stream_of(*records: tuple[int, Entry] | tuple[int, Entry, bytes], root: bool = True) -> io.BytesIO:
    out = io.BytesIO()
    writer = ChangeWriter(out)
    if root:
        writer.record(RecordType.DIRECTORY, ROOT)
    for kind, entry, *content in records:
        writer.record(kind, entry, io.BytesIO(content[0]) if content else None)
    writer.finish()
    return out


def file(path: str, data: bytes = b"", **fields) -> Item:  # type: ignore[no-untyped-def]
    return Item(Entry(path, EntryType.FILE, size=len(data), **fields), partial(io.BytesIO, data))


def paths(stream: io.BytesIO, exclude: frozenset[str] = frozenset()) -> dict[str, Entry]:
    index = layer_from_changes(read_changes(stream, LIMITS), io.BytesIO(), exclude=exclude).index
    return {entry.path: entry for entry in index}


def test_a_record_is_laid_out_as_the_agent_writes_it() -> None:
    data = stream_of(
        (RecordType.FILE, Entry("f", EntryType.FILE, 0o640, 7, 8, 3, 99.5, xattrs=(("user.a", b"bc"),)), b"abc")
    ).getvalue()
    assert data[:8] == b"MBCHG\0\0\1"
    assert data[8:12] == b"MBCE"
    record = data[512:]
    expected = struct.pack("<IBBHIIIII", 0x4543424D, 1, 0, 1, 0o640, 7, 8, 0, 0) + struct.pack(
        "<QqIIIQ", 3, 99, 500_000_000, 1, 0, 0
    )
    assert len(expected) == 64
    assert record[:64] == expected
    assert record[64:79] == b"f" + struct.pack("<HI", 6, 2) + b"user.abc"
    assert record[512:1024] == b"abc" + bytes(509)
    assert record[1024:1088] == struct.pack("<IB", 0x4543424D, 255) + bytes(23) + struct.pack("<Q", 2) + bytes(28)
    assert len(data) % 512 == 0


def test_a_step_that_changed_nothing_is_empty() -> None:
    changes = read_changes(stream_of(), LIMITS)
    assert changes.is_empty
    assert paths(stream_of()) == {}


def test_overlay_marks_become_whiteouts_and_opaque_directories() -> None:
    stream = stream_of(
        (RecordType.DIRECTORY, Entry("d", EntryType.DIRECTORY, 0o700, xattrs=(("trusted.overlay.opaque", b"y"),))),
        (RecordType.CHARACTER, Entry("d/gone", EntryType.CHARACTER)),
        (RecordType.CHARACTER, Entry("null", EntryType.CHARACTER, device=(1, 3))),
    )
    found = paths(stream)
    assert found["d"] == Entry("d", EntryType.DIRECTORY, 0o700, opaque=True)
    assert found["d/gone"].type is EntryType.WHITEOUT
    assert found["null"].device == (1, 3)


def test_times_are_normal_unless_they_are_kept() -> None:
    stream = stream_of((RecordType.SYMLINK, Entry("l", EntryType.SYMLINK, 0o777, mtime=5.25, link="x")))
    assert paths(stream)["l"].mtime == NORMAL_TIME
    kept = layer_from_changes(read_changes(stream, LIMITS), io.BytesIO(), times=KEPT)
    assert [entry.mtime for entry in kept.index] == [5]


def test_sockets_and_attributes_of_the_machine_are_left_out() -> None:
    xattrs = tuple(
        (name, b"1")
        for name in (
            "security.capability",
            "security.selinux",
            "system.posix_acl_access",
            "trusted.overlay.origin",
            "trusted.x",
            "user.overlay.opaque",
            "user.x",
        )
    )
    stream = stream_of(
        (RecordType.SOCKET, Entry("s", EntryType.FILE)), (RecordType.FILE, Entry("f", EntryType.FILE, xattrs=xattrs))
    )
    found = paths(stream)
    assert list(found) == ["f"]
    assert found["f"].xattrs == (("security.capability", b"1"), ("user.x", b"1"))


def test_of_hard_links_the_first_in_order_has_the_content_whatever_the_guest_met_first() -> None:
    link = (RecordType.HARDLINK, Entry("a", EntryType.HARDLINK, link="z"))
    out = io.BytesIO()
    stream = stream_of((RecordType.FILE, Entry("z", EntryType.FILE, 0o600, size=4), b"data"), link)
    index = layer_from_changes(read_changes(stream, LIMITS), out).index
    assert [(entry.path, entry.type, entry.size) for entry in index] == [
        ("a", EntryType.FILE, 4),
        ("z", EntryType.HARDLINK, 0),
    ]
    assert out.getvalue()[512:516] == b"data"


def test_what_is_excluded_is_left_out_with_all_below_it() -> None:
    out = io.BytesIO()
    write_changes([file("run/secrets/token", b"x"), file("etc/resolv.conf", b"y"), file("etc/x"), file("runner")], out)
    assert sorted(paths(out, frozenset({"run", "etc/resolv.conf"}))) == ["etc", "etc/x", "runner"]


def test_the_links_of_an_excluded_file_keep_its_content() -> None:
    out = io.BytesIO()
    items = [file("a", b"data"), *(Item(Entry(path, EntryType.HARDLINK, link="a")) for path in ("b", "c"))]
    write_changes(items, out)
    found = paths(out, frozenset({"a"}))
    assert (found["b"].type, found["b"].size) == (EntryType.FILE, 4)
    assert (found["c"].type, found["c"].link) == (EntryType.HARDLINK, "b")


def entry(path: str, **fields) -> Entry:  # type: ignore[no-untyped-def]
    return Entry(path, EntryType.FILE, **fields)


def scattered(size: int, *extents: tuple[int, int]) -> io.BytesIO:
    """The stream of one file that lies on the scratch disk."""
    out = io.BytesIO()
    writer = ChangeWriter(out)
    writer.record(RecordType.DIRECTORY, ROOT)
    writer.extents(entry("x", size=size), extents)
    writer.finish()
    return out


FILE, DIRECTORY, HARDLINK, SYMLINK = RecordType.FILE, RecordType.DIRECTORY, RecordType.HARDLINK, RecordType.SYMLINK
MALFORMED = {
    "no magic": io.BytesIO(b"\0" * 512),
    "nothing": io.BytesIO(b""),
    "no end": io.BytesIO(stream_of().getvalue()[:512]),
    "no root": stream_of((FILE, entry("x")), root=False),
    "root twice": stream_of((DIRECTORY, ROOT)),
    "root is a file": stream_of((FILE, entry("")), root=False),
    "absolute path": stream_of((FILE, entry("/x"))),
    "climbing path": stream_of((FILE, entry("../x"))),
    "path with a dot": stream_of((FILE, entry("./x"))),
    "path with two slashes": stream_of((DIRECTORY, DIR), (FILE, entry("d//x"))),
    "path with a NUL": stream_of((FILE, entry("a\0b"))),
    "path too long": stream_of((FILE, entry("x" * 5000))),
    "name too long": stream_of((FILE, entry("x" * 256))),
    "parent missing": stream_of((FILE, entry("d/x"))),
    "parent is a file": stream_of((FILE, entry("d")), (FILE, entry("d/x"))),
    "parent is a symlink": stream_of((SYMLINK, entry("d", link="/etc")), (FILE, entry("d/x"))),
    "path twice": stream_of((FILE, entry("x")), (DIRECTORY, entry("x"))),
    "hard link to nothing": stream_of((HARDLINK, entry("h", link="x"))),
    "hard link to a directory": stream_of((DIRECTORY, DIR), (HARDLINK, entry("h", link="d"))),
    "hard link to the host": stream_of((HARDLINK, entry("h", link="../../etc/shadow"))),
    "symlink to nothing": stream_of((SYMLINK, entry("l"))),
    "symlink with a NUL": stream_of((SYMLINK, entry("l", link="a\0"))),
    "file with a link": stream_of((FILE, entry("f", link="a"))),
    "unknown type": stream_of((10, entry("x"))),
    "pieces without a disk": scattered(3, (0, 3)),
    "impossible mode": stream_of((FILE, entry("x", mode=0o10000))),
    "impossible owner": stream_of((FILE, entry("x", uid=(1 << 32) - 1))),
    "impossible time": stream_of((FILE, entry("x", mtime=1 << 50))),
    "impossible device": stream_of((RecordType.CHARACTER, entry("x", device=(5000, 1)))),
    "attribute twice": stream_of((FILE, entry("x", xattrs=(("user.a", b""), ("user.a", b""))))),
    "attribute too large": stream_of((FILE, entry("x", xattrs=(("user.a", b"x" * 70_000),)))),
    "attribute without name": stream_of((FILE, entry("x", xattrs=(("", b""),)))),
    "content beyond the end": io.BytesIO(
        STREAM_MAGIC
        + HEADER.pack(RECORD_MAGIC, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
        + bytes(440)
        + HEADER.pack(RECORD_MAGIC, 1, 0, 0, 0, 0, 0, 0, 99_999, 0, 0, 1, 0)
        + b"x".ljust(448, b"\0")
    ),
    "content of a directory": io.BytesIO(
        STREAM_MAGIC + HEADER.pack(RECORD_MAGIC, 2, 0, 0, 0, 0, 0, 0, 512, 0, 0, 0, 0) + bytes(1024)
    ),
    "wrong count at the end": io.BytesIO(
        STREAM_MAGIC + HEADER.pack(RECORD_MAGIC, 255, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0) + bytes(440)
    ),
    "record without magic": io.BytesIO(STREAM_MAGIC + bytes(1024)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_stream_is_refused(case: str) -> None:
    stream = MALFORMED[case]
    stream.seek(0)
    with pytest.raises(UntrustedDataError) as caught:
        read_changes(stream, LIMITS)
    assert caught.value.code == "changes-malformed"


PIECES = {
    "behind the end": scattered(3, (98, 3)),
    "behind all numbers": scattered(3, ((1 << 64) - 2, 3)),
    "too short": scattered(4, (0, 3)),
    "too long": scattered(2, (0, 3)),
    "none": scattered(1),
    "an empty one": scattered(3, (0, 3), (5, 0)),
    "too many": scattered(1025, *[(1, 1)] * 1025),
    "cut": io.BytesIO(scattered(1000, *[(1, 1)] * 1000).getvalue()[:9000]),
}


@pytest.mark.parametrize("case", PIECES)
def test_pieces_of_a_file_that_cannot_be_are_refused(case: str) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        read_changes(PIECES[case], LIMITS, io.BytesIO(bytes(100)))
    assert caught.value.code == "changes-malformed"


def test_pieces_of_more_than_a_layer_may_hold_are_refused() -> None:
    with pytest.raises(UntrustedDataError) as caught:
        read_changes(scattered(1 << 25, (ZEROS, 1 << 25)), LIMITS, io.BytesIO())
    assert caught.value.code == "changes-too-large"


@given(content=st.binary(max_size=5000), cuts=st.lists(st.integers(1, 4999), max_size=6), on_file=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_file_in_pieces_gives_the_layer_of_one_that_is_whole(content: bytes, cuts: list[int], on_file: bool) -> None:
    ends = sorted({len(content), *(cut for cut in cuts if cut < len(content))} - {0})
    pieces = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    disk, extents = bytearray(), []
    for piece in reversed(pieces):
        whole = not any(piece)
        extents.insert(0, (ZEROS if whole else len(disk), len(piece)))
        disk += b"" if whole else piece + b"gap"
    whole_out, out = io.BytesIO(), io.BytesIO()
    stream = stream_of((FILE, entry("x", size=len(content)), content))
    expected = layer_from_changes(read_changes(stream, LIMITS), whole_out)
    with tempfile.TemporaryFile() if on_file else io.BytesIO() as scratch:
        scratch.write(disk)
        scratch.flush()
        written = layer_from_changes(read_changes(scattered(len(content), *extents), LIMITS, scratch), out)
    assert out.getvalue() == whole_out.getvalue()
    assert written.index == expected.index


@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_overlay_features_that_need_the_layers_below_are_refused(name: str) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        read_changes(stream_of((DIRECTORY, entry("d", xattrs=(("trusted.overlay." + name, b"x"),)))), LIMITS)
    assert caught.value.code == "changes-unsupported"


def test_a_name_that_means_a_removal_is_the_users_mistake() -> None:
    with pytest.raises(StepError) as caught:
        read_changes(stream_of((FILE, entry(".wh.passwd"))), LIMITS)
    assert caught.value.code == "changes-name"


@pytest.mark.parametrize(
    "limits",
    [LayerLimits(max_bytes=999), LayerLimits(max_entries=2), LayerLimits(max_metadata=1)],
)
def test_more_than_allowed_is_refused(limits: LayerLimits) -> None:
    stream = stream_of((FILE, entry("aa", size=500), b"x" * 500), (FILE, entry("bb", size=500), b"x" * 500))
    with pytest.raises(UntrustedDataError) as caught:
        read_changes(stream, limits)
    assert caught.value.code == "changes-too-large"


@given(where=st.integers(0, 3000), data=st.binary(max_size=70), cut=st.one_of(st.none(), st.integers(0, 3000)))
@settings(max_examples=400, deadline=None)
def test_a_damaged_stream_is_read_or_refused_and_nothing_else(where: int, data: bytes, cut: int | None) -> None:
    stream = stream_of(
        (DIRECTORY, DIR),
        (FILE, entry("d/f", size=3, xattrs=(("user.a", b"b"),)), b"abc"),
        (HARDLINK, entry("d/h", link="d/f")),
        (SYMLINK, entry("l", link="d")),
    )
    good = stream.getvalue()
    damaged = io.BytesIO((good[:where] + data + good[where + len(data) :])[:cut])
    code = "changes-accepted"
    try:
        layer_from_changes(read_changes(damaged, LIMITS), io.BytesIO())
    except MbuildError as error:
        code = error.code
    assert code.startswith("changes-")
