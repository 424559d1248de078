"""Layers that were made to do harm, each refused with a code and by the name of the entry."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.layers.layerdisk import prepare_layer
from engine.layers.limits import LayerLimits
from engine.layers.tarread import LayerReader
from machinefile.errors import MbuildError, UntrustedDataError

END = bytes(1024)


def block(
    name: bytes = b"x",
    kind: bytes = b"0",
    *,
    size: bytes | int = 0,
    link: bytes = b"",
    uid: bytes = b"0000000",
    gid: bytes = b"0000000",
    mode: bytes = b"0000644",
    mtime: bytes = b"00000000000",
    device: tuple[bytes, bytes] = (b"0000000", b"0000000"),
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
    checksum: bytes | None = None,
) -> bytes:
    """A header block with any bytes in its fields."""
    size_field = b"%011o\0" % size if isinstance(size, int) else size.ljust(12, b"\0")
    head = (
        name.ljust(100, b"\0")
        + mode.ljust(8, b"\0")
        + uid.ljust(8, b"\0")
        + gid.ljust(8, b"\0")
        + size_field
        + mtime.ljust(12, b"\0")
    )
    tail = kind + link.ljust(100, b"\0") + magic.ljust(8, b"\0") + bytes(64)
    tail += device[0].ljust(8, b"\0") + device[1].ljust(8, b"\0") + prefix.ljust(155, b"\0") + bytes(12)
    if checksum is None:
        checksum = b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32)
    whole = head + checksum.ljust(8, b"\0") + tail
    assert len(whole) == 512
    return whole


def file(name: bytes, data: bytes = b"") -> bytes:
    return block(name, size=len(data)) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    body = len(key) + len(value) + 3
    length = body + len(str(body))
    length = body + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def pax(data: bytes, kind: bytes = b"x") -> bytes:
    return block(b"pax", kind, size=len(data)) + padded(data)


def long_name(data: bytes, kind: bytes = b"L") -> bytes:
    return block(b"././@LongLink", kind, size=len(data)) + padded(data)


HOSTILE: dict[str, tuple[str, bytes]] = {
    "climbs out": ("layer-path", file(b"../etc/passwd")),
    "climbs out in the middle": ("layer-path", file(b"a/../../x")),
    "climbs and comes back": ("layer-path", file(b"a/../b")),
    "climbs out by prefix": ("layer-path", block(b"x", prefix=b"..")),
    "climbs out by absolute name": ("layer-path", file(b"/../x")),
    "climbs out by PAX path": ("layer-path", pax(record(b"path", b"../../x")) + file(b"fine")),
    "climbs out by GNU name": ("layer-path", long_name(b"../../x\0") + file(b"fine")),
    "climbs out by whiteout": ("layer-path", file(b"../.wh.x")),
    "whiteout of the parent": ("layer-path", file(b"a/.wh...")),
    "whiteout of itself": ("layer-path", file(b"a/.wh..")),
    "whiteout of nothing": ("layer-path", file(b"a/.wh.")),
    "NUL in a PAX path": ("layer-path", pax(record(b"path", b"a\0b")) + file(b"fine")),
    "NUL in a PAX link": ("layer-path", pax(record(b"linkpath", b"a\0b")) + block(b"l", b"2", link=b"x")),
    "name too long": ("layer-path", long_name(b"n" * 256 + b"\0") + file(b"fine")),
    "path too long": ("layer-path", pax(record(b"path", b"d/" * 2100 + b"x")) + file(b"fine")),
    "GNU name beyond all bounds": ("layer-header", block(b"L", b"L", size=1 << 32)),
    "PAX header beyond all bounds": ("layer-header", block(b"x", b"x", size=8 << 20)),
    "global header beyond all bounds": ("layer-header", block(b"g", b"g", size=8 << 20)),
    "the root is a file": ("layer-path", file(b"./")),
    "the root is a symlink": ("layer-path", block(b"/", b"2", link=b"/elsewhere")),
    "symlink to nothing": ("layer-path", block(b"l", b"2")),
    "symlink too long": ("layer-path", pax(record(b"linkpath", b"x" * 5000)) + block(b"l", b"2", link=b"x")),
    "hard link to nothing": ("layer-hardlink", block(b"h", b"1", link=b"missing")),
    "hard link to what comes later": ("layer-hardlink", block(b"h", b"1", link=b"x") + file(b"x")),
    "hard link to itself": ("layer-hardlink", block(b"h", b"1", link=b"h")),
    "hard link replacing its file": ("layer-hardlink", file(b"h") + block(b"h", b"1", link=b"h")),
    "hard link to itself by another": (
        "layer-hardlink",
        file(b"a") + block(b"b", b"1", link=b"a") + block(b"a", b"1", link=b"b"),
    ),
    "hard link out of the tree": ("layer-path", block(b"h", b"1", link=b"../../etc/shadow")),
    "hard link to a directory": ("layer-hardlink", block(b"d/", b"5") + block(b"h", b"1", link=b"d")),
    "hard link to the root": ("layer-hardlink", block(b"h", b"1", link=b"/")),
    "hard link to the host by name": ("layer-hardlink", block(b"h", b"1", link=b"/etc/shadow")),
    "hard link through a symlink": (
        "layer-hardlink",
        block(b"l", b"2", link=b"/etc") + block(b"h", b"1", link=b"l/shadow"),
    ),
    "file below a file": ("layer-parent", file(b"a") + file(b"a/b")),
    "file below a device": ("layer-parent", block(b"a", b"3", device=(b"1", b"3")) + file(b"a/b")),
    "symlinks in a circle": (
        "layer-parent",
        block(b"a", b"2", link=b"b") + block(b"b", b"2", link=b"a") + file(b"a/x"),
    ),
    "symlink to itself": ("layer-parent", block(b"a", b"2", link=b"a/a") + file(b"a/x")),
    "whiteout below a file": ("layer-parent", file(b"a") + file(b"a/.wh.b")),
    "opaque file": ("layer-parent", file(b"a") + file(b"a/.wh..wh..opq")),
    "file in place of a full directory": ("layer-replaced", file(b"a/b") + file(b"a")),
    "symlink in place of a full directory": ("layer-replaced", file(b"a/b") + block(b"a", b"2", link=b"/etc")),
    "file replaced behind its hard link": (
        "layer-replaced",
        file(b"a", b"1") + block(b"b", b"1", link=b"a") + file(b"a", b"2"),
    ),
    "negative size in base 256": ("layer-header", block(size=b"\xff" * 12)),
    "huge size in base 256": ("layer-header", block(size=b"\x80" + b"\x7f" * 11)),
    "negative size in octal": ("layer-header", block(size=b"-0000000001")),
    "size with a sign": ("layer-header", block(size=b"+0000000001")),
    "size with underscores": ("layer-header", block(size=b"0_0_0_0_1")),
    "size in hexadecimal": ("layer-header", block(size=b"0x10")),
    "size not octal": ("layer-header", block(size=b"00000000009")),
    "negative PAX size": ("layer-pax", pax(record(b"size", b"-1")) + file(b"fine")),
    "huge PAX size": ("layer-pax", pax(record(b"size", b"9" * 40)) + file(b"fine")),
    "size of more than there is": ("layer-truncated", block(size=1 << 32)),
    "PAX size of more than there is": ("layer-truncated", pax(record(b"size", b"99999999")) + file(b"fine")),
    "negative owner": ("layer-header", block(uid=b"\xff" * 8)),
    "owner out of range": ("layer-header", pax(record(b"uid", b"4294967295")) + file(b"fine")),
    "PAX owner by name": ("layer-pax", pax(record(b"gid", b"root")) + file(b"fine")),
    "PAX time that is no number": ("layer-pax", pax(record(b"mtime", b"nan")) + file(b"fine")),
    "PAX time without end": ("layer-pax", pax(record(b"mtime", b"1" * 400)) + file(b"fine")),
    "PAX time in exponents": ("layer-pax", pax(record(b"mtime", b"1e999")) + file(b"fine")),
    "device out of range": ("layer-header", block(kind=b"3", device=(b"7777777", b"1"))),
    "PAX record without length": ("layer-pax", pax(b"path=x\n") + file(b"fine")),
    "PAX record longer than its header": ("layer-pax", pax(b"99 path=x\n") + file(b"fine")),
    "PAX record of no length": ("layer-pax", pax(b"0 path=x\n") + file(b"fine")),
    "PAX record too short for itself": ("layer-pax", pax(b"3 p=x\n") + file(b"fine")),
    "PAX record without key": ("layer-pax", pax(b"5 =x\n") + file(b"fine")),
    "PAX record without line end": ("layer-pax", pax(b"9 path=xy") + file(b"fine")),
    "PAX record without equals": ("layer-pax", pax(b"7 path\n") + file(b"fine")),
    "attribute larger than Linux allows": (
        "layer-pax",
        pax(record(b"SCHILY.xattr.user.x", b"v" * 70_000)) + file(b"fine"),
    ),
    "attribute with a name too long": (
        "layer-pax",
        pax(record(b"SCHILY.xattr.user." + b"n" * 300, b"v")) + file(b"fine"),
    ),
    "attribute that is not base64": ("layer-pax", pax(record(b"LIBARCHIVE.xattr.user.x", b"!!")) + file(b"fine")),
    "attribute with NUL in its name": (
        "layer-pax",
        pax(record(b"LIBARCHIVE.xattr.user.%00", b"AAAA")) + file(b"fine"),
    ),
    "sparse file of GNU": ("layer-sparse", block(kind=b"S")),
    "sparse file in PAX": ("layer-sparse", pax(record(b"GNU.sparse.map", b"0,1")) + file(b"fine")),
    "volume label": ("layer-entry-type", block(kind=b"V")),
    "multi-volume part": ("layer-entry-type", block(kind=b"M")),
    "unknown type": ("layer-entry-type", block(kind=b"Z")),
    "not a tar": ("layer-header", b"<html>not found</html>" * 100),
    "wrong checksum": ("layer-header", block(checksum=b"0000001")),
    "checksum that is no number": ("layer-header", block(checksum=b"zzzzzzz")),
    "garbage after the first entry": ("layer-header", file(b"x", b"1") + b"\x99" * 512),
}
TRUNCATED: dict[str, bytes] = {
    "in a header": file(b"x", b"1") + block(b"y")[:100],
    "in a content": block(b"x", size=600) + b"1" * 300,
    "in a padding": block(b"x", size=600) + b"1" * 700,
    "behind a PAX header": pax(record(b"path", b"x")),
    "in a PAX header": block(b"pax", b"x", size=600) + b"1" * 300,
    "behind a long name": long_name(b"name\0"),
    "in an ignored file": block(b".wh..wh.plnk/x", size=600) + b"1" * 300,
}


def read_all(data: bytes) -> None:
    for member in LayerReader(io.BytesIO(data), LayerLimits(max_bytes=1 << 22)):
        member.content.read()


def code_of(read: Callable[[bytes], None], data: bytes) -> str:
    """How reading is refused; any other exception is the test's failure."""
    try:
        read(data)
    except MbuildError as error:
        return error.code
    return "layer-accepted"


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_layer_is_refused(case: str) -> None:
    code, data = HOSTILE[case]
    with pytest.raises(UntrustedDataError) as caught:
        read_all(data + END)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize("case", TRUNCATED)
def test_a_layer_that_ends_too_early_is_refused(case: str) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        read_all(TRUNCATED[case])
    assert caught.value.code == "layer-truncated"


@pytest.mark.parametrize("case", ["climbs out", "hard link to nothing", "file below a file", "sparse file of GNU"])
def test_the_message_names_the_entry(case: str) -> None:
    names = {
        "climbs out": "../etc/passwd",
        "hard link to nothing": "'h'",
        "file below a file": "'a",
        "sparse file of GNU": "'x'",
    }
    with pytest.raises(UntrustedDataError, match=names[case]):
        read_all(HOSTILE[case][1] + END)


@pytest.mark.parametrize("case", ["climbs out", "hard link to nothing", "garbage after the first entry"])
def test_nothing_of_a_hostile_layer_reaches_the_disk_folder(case: str, tmp_path: Path) -> None:
    data = file(b"fine", b"1" * 100_000) + HOSTILE[case][1] + END
    with pytest.raises(UntrustedDataError):
        prepare_layer(
            io.BytesIO(data),
            diff_id="sha256:" + hashlib.sha256(data).hexdigest(),
            limits=LayerLimits(),
            folder=tmp_path / "disks",
        )
    assert list((tmp_path / "disks").iterdir()) == []


def test_many_levels_of_directories_are_not_quadratic() -> None:
    data = b"".join(pax(record(b"path", b"d/" * 2000 + b"%d" % number)) + file(b"fine") for number in range(300))
    read_all(data + END)


def test_directories_that_are_only_implied_count_as_metadata() -> None:
    data = b"".join(pax(record(b"path", b"%d/" % number + b"d/" * 2000 + b"x")) + file(b"fine") for number in range(9))
    with pytest.raises(UntrustedDataError) as caught:
        list(LayerReader(io.BytesIO(data + END), LayerLimits(max_metadata=30 << 20)))
    assert caught.value.code == "layer-too-large"


def test_symlinks_cannot_make_a_path_grow_without_end() -> None:
    data = b"".join(
        pax(record(b"linkpath", b"l%d/" % (number + 1) + b"d/" * 2000)) + block(b"l%d" % number, b"2", link=b"x")
        for number in range(30)
    )
    with pytest.raises(UntrustedDataError) as caught:
        read_all(data + file(b"l0/x") + END)
    assert caught.value.code == "layer-path"


@given(data=st.binary(max_size=1500), where=st.integers(0, 3000), seed=st.sampled_from(sorted(HOSTILE)))
@settings(max_examples=300, deadline=None)
def test_a_damaged_layer_is_read_or_refused_and_nothing_else(data: bytes, where: int, seed: str) -> None:
    good = file(b"a", b"1" * 700) + pax(record(b"path", b"b" * 120)) + file(b"b", b"2") + HOSTILE[seed][1] + END
    damaged = good[:where] + data + good[where + len(data) :]
    assert code_of(read_all, damaged).startswith("layer-")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"a", b"a/b", b"a/b/c", b"b", b".wh.a", b"a/.wh.b", b"a/.wh..wh..opq", b"/", b"a/.wh..wh.x"]
            ),
            st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"x", b"g"]),
            st.sampled_from([b"", b"a", b"b", b"a/b", b"/a/b", b".", b"a/b/c"]),
        ),
        max_size=8,
    )
)
@settings(max_examples=300, deadline=None)
def test_any_order_of_entries_gives_a_tree_in_which_all_stand_in_directories(
    entries: list[tuple[bytes, bytes, bytes]],
) -> None:
    blocks = [block(name, kind, link=link) for name, kind, link in entries]
    reader = LayerReader(io.BytesIO(b"".join(blocks) + END), LayerLimits())
    try:
        for _ in reader:
            pass
    except UntrustedDataError:
        return
    contents = reader.tree.finish()
    directories = {entry.path for entry, _ in contents.entries if entry.type.value == "directory"}
    directories.update(path for path, _ in contents.implied)
    files = {entry.path for entry, _ in contents.entries if entry.type.value == "file"}
    for entry, _ in contents.entries:
        if entry.path:
            assert entry.path.rpartition("/")[0] in directories
        if entry.type.value == "hardlink":
            assert entry.link in files
    assert not directories & {entry.path for entry, _ in contents.entries if entry.type.value != "directory"}
