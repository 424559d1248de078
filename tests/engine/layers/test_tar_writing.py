"""Canonical layers: the exact bytes, and what other programs read in them."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.layers.headerwrite import header_blocks
from engine.layers.tarwrite import Item, write_layer
from machinefile.errors import HostError

LONG = "usr/" + "long/" * 30 + "name"


def item(entry: Entry, data: bytes = b"") -> Item:
    return Item(entry, lambda: io.BytesIO(data)) if data else Item(entry)


def file(path: str, data: bytes = b"", **fields) -> Item:  # type: ignore[no-untyped-def]
    return item(Entry(path, EntryType.FILE, size=len(data), **fields), data)


EVERYTHING = [
    item(Entry("", EntryType.DIRECTORY, 0o755)),
    item(Entry("bin", EntryType.SYMLINK, 0o777, link="usr/bin")),
    item(Entry("dev", EntryType.DIRECTORY, 0o755, opaque=True)),
    item(Entry("dev/null", EntryType.CHARACTER, 0o666, device=(1, 3))),
    item(Entry("dev/sda", EntryType.BLOCK, 0o660, gid=6, device=(8, 300))),
    item(Entry("etc/gone", EntryType.WHITEOUT, 0)),
    file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o600),
    item(Entry("run/pipe", EntryType.FIFO, 0o600, uid=1000, gid=1000)),
    file("tmp/caf\udce9", b"\0" * 513, mtime=1_700_000_000.5),
    file(
        "usr/bin/ping", b"ELF", mode=0o4755, xattrs=(("security.capability", b"\x01\0\0\x02\n="), ("user.a=b", b"\xff"))
    ),
    item(Entry("usr/bin/ping6", EntryType.HARDLINK, link="usr/bin/ping")),
    file("usr/big-ids", b"", uid=3_000_000_000, gid=2_097_152, mtime=-1),
    file(LONG, b"x"),
    item(Entry("usr/link", EntryType.SYMLINK, 0o777, link="../" * 60)),
]


def written(items: list[Item]) -> bytes:
    out = io.BytesIO()
    layer = write_layer(items, out)
    data = out.getvalue()
    assert layer.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
    assert layer.size == len(data)
    return data


def test_a_small_layer_is_exactly_these_bytes() -> None:
    name = b"etc/motd".ljust(100, b"\0")
    numbers = b"0000644\x000001750\x000000000\x0000000000003\x0002263773600\0"
    rest = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0" + bytes(155) + bytes(12)
    checksum = b"%06o\0 " % (sum(name + numbers + rest) + 8 * 32)
    expected = name + numbers + checksum + rest + b"hi\n" + bytes(509) + bytes(1024)
    assert int(b"02263773600", 8) == NORMAL_TIME
    assert written([file("etc/motd", b"hi\n", uid=1000)]) == expected


@given(
    name=st.binary(min_size=1, max_size=100).filter(lambda name: not {0, 47, 46} & set(name)),
    mode=st.integers(0, 0o7777),
    owner=st.tuples(st.integers(0, 0o7777777), st.integers(0, 0o7777777)),
    size=st.integers(0, 0o77777777777),
    mtime=st.one_of(st.integers(0, 0o77777777777), st.just(float(NORMAL_TIME))),
)
@settings(max_examples=100, deadline=None)
def test_a_plain_file_has_one_block_with_all_its_numbers(
    name: bytes, mode: int, owner: tuple[int, int], size: int, mtime: float
) -> None:
    block = header_blocks(Entry(os.fsdecode(name), EntryType.FILE, mode, *owner, size, mtime))
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, *owner, size, int(mtime))
    rest = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\x000000000\0" + bytes(155) + bytes(12)
    checksum = b"%06o\0 " % (sum(name + numbers + rest) + 8 * 32)
    assert block == name.ljust(100, b"\0") + numbers + checksum + rest


def test_a_layer_of_everything_keeps_its_digest_for_ever() -> None:
    # A change of this digest empties every user's cache: it needs a reason, and a line in the changelog.
    digest = hashlib.sha256(written(EVERYTHING)).hexdigest()
    assert digest == "5acd34e8c865a9823732a77b1ad71a90a2710c4d95082a2ba93c4bf2fa1c40af"


def test_order_of_the_input_does_not_matter() -> None:
    shuffled = EVERYTHING.copy()
    random.Random(3).shuffle(shuffled)
    assert written(shuffled) == written(EVERYTHING)


def test_the_environment_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = written(EVERYTHING)
    old = os.umask(0o077)
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
        assert written(EVERYTHING) == before
    finally:
        os.umask(old)


def test_which_of_the_hard_links_is_called_the_file_does_not_matter() -> None:
    one = [
        file("a", b"data", mode=0o600),
        item(Entry("b", EntryType.HARDLINK, link="a")),
        item(Entry("c", EntryType.HARDLINK, link="a")),
    ]
    other = [
        file("c", b"data", mode=0o600),
        item(Entry("a", EntryType.HARDLINK, link="c")),
        item(Entry("b", EntryType.HARDLINK, link="c")),
    ]
    assert written(one) == written(other)


def test_the_empty_layer_is_two_blocks() -> None:
    assert written([]) == bytes(1024)


def test_a_path_given_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="twice"):
        written([file("x"), file("x")])


def test_a_hard_link_without_its_file_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'h'"):
        written([item(Entry("h", EntryType.HARDLINK, link="x"))])


@pytest.mark.parametrize("data", [b"", b"12", b"1234"])
def test_a_content_that_changed_its_length_is_an_error(data: bytes) -> None:
    with pytest.raises(HostError) as caught:
        written([Item(Entry("x", EntryType.FILE, size=3), lambda: io.BytesIO(data))])
    assert caught.value.code == "content-changed"
    assert "'x'" in caught.value.message


def test_contents_are_closed() -> None:
    opened: list[io.BytesIO] = []

    def opener() -> io.BytesIO:
        opened.append(io.BytesIO(b"123"))
        return opened[-1]

    written([Item(Entry("x", EntryType.FILE, size=3), opener)])
    assert [one.closed for one in opened] == [True]


def test_python_reads_what_was_written() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(EVERYTHING))) as archive:
        members = {member.name: member for member in archive}
        ping = archive.extractfile("usr/bin/ping6")
        assert ping is not None
        assert ping.read() == b"ELF"
    assert members["usr/big-ids"].uid == 3_000_000_000
    assert members["usr/big-ids"].mtime == -1
    assert members["tmp/caf\udce9"].mtime == 1_700_000_000.5
    assert members["dev/sda"].devminor == 300
    assert members["etc/.wh.gone"].isreg()
    assert members["dev/.wh..wh..opq"].isreg()
    assert members[LONG].size == 1
    assert members["usr/link"].linkname == "../" * 60
    assert {member.uname for member in members.values()} == {""}


def test_gnu_tar_reads_what_was_written() -> None:
    result = subprocess.run(
        ["tar", "--list", "--verbose", "--numeric-owner", "--quoting-style=literal", "--file=-"],
        input=written(EVERYTHING),
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "TZ": "UTC"},
        timeout=20,
    )
    lines = result.stdout.decode("utf-8", "surrogateescape").splitlines()
    # Schily's attributes are known to it, libarchive's are not
    assert all(b"LIBARCHIVE" in line for line in result.stderr.splitlines())
    assert len(lines) == len(EVERYTHING) + 1  # the opaque marker
    assert lines[0].startswith("drwxr-xr-x 0/0")
    assert any(line.startswith("-rwsr-xr-x 0/0") and line.endswith("usr/bin/ping") for line in lines)
    assert any("3000000000/2097152" in line for line in lines)
    assert any(line.endswith("usr/bin/ping6 link to usr/bin/ping") for line in lines)


@pytest.mark.parametrize("there", [0, 4, 6, 70_000])
def test_a_file_of_the_host_that_is_not_as_long_as_it_was_is_refused(tmp_path: Path, there: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * there)
    copied = Item(Entry("file", EntryType.FILE, size=5), lambda: io.FileIO(tmp_path / "file"))
    with pytest.raises(HostError) as caught:
        write_layer([copied], io.BytesIO())
    assert caught.value.code == "content-changed"
