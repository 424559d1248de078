"""Layers as other tools write them, read into entries."""

from __future__ import annotations

import io
import tarfile
import time

import pytest

from engine.layers.entry import Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.tarread import LayerReader
from engine.layers.tree import Contents
from machinefile.errors import UntrustedDataError

KINDS = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "c": tarfile.CHRTYPE,
    "b": tarfile.BLKTYPE,
    "p": tarfile.FIFOTYPE,
}


def tar(*members: tuple, format: int = tarfile.PAX_FORMAT, **options) -> bytes:  # type: ignore[no-untyped-def, type-arg]  # noqa: A002
    """A tar of (kind, name, fields) with Python's own writer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, **options) as archive:
        for kind, name, *fields in members:
            info = tarfile.TarInfo(name)
            info.type = KINDS[kind]
            data = b""
            for key, value in (fields[0] if fields else {}).items():
                if key == "data":
                    data = value
                else:
                    setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def contents(data: bytes) -> Contents:
    reader = LayerReader(io.BytesIO(data), LayerLimits())
    for _ in reader:
        pass
    assert reader.stream.offset == len(data)
    return reader.tree.finish()


def entries(data: bytes) -> dict[str, Entry]:
    return {entry.path: entry for entry, _ in contents(data).entries}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_type_of_entry_is_read_from_every_format(format: int) -> None:  # noqa: A002
    data = tar(
        ("d", "bin", {"mode": 0o1777, "uid": 7, "gid": 8, "mtime": 99}),
        ("f", "bin/tool", {"mode": 0o4755, "data": b"hello"}),
        ("h", "bin/again", {"linkname": "bin/tool"}),
        ("l", "sh", {"linkname": "../bin/tool"}),
        ("c", "null", {"devmajor": 1, "devminor": 3}),
        ("b", "sda", {"devmajor": 8, "devminor": 300}),
        ("p", "pipe"),
        format=format,
    )
    found = entries(data)
    assert found["bin"] == Entry("bin", EntryType.DIRECTORY, 0o1777, 7, 8, mtime=99)
    assert found["bin/tool"] == Entry("bin/tool", EntryType.FILE, 0o4755, size=5, mtime=0)
    assert found["bin/again"] == Entry("bin/again", EntryType.HARDLINK, 0o4755, mtime=0, link="bin/tool")
    assert found["sh"] == Entry("sh", EntryType.SYMLINK, 0o777, mtime=0, link="../bin/tool")
    assert found["null"].device == (1, 3)
    assert found["sda"].device == (8, 300)
    assert found["pipe"].type is EntryType.FIFO


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_whole(format: int) -> None:  # noqa: A002
    name = "d" * 60 + "/" + "e" * 60 + "/" + "f" * 60
    assert name in entries(tar(("f", name), format=format))


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_links_are_whole(format: int) -> None:  # noqa: A002
    target = "/".join(["up"] * 200)
    found = entries(tar(("l", "x", {"linkname": target}), format=format))
    assert found["x"].link == target


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_large_numbers_are_read(format: int) -> None:  # noqa: A002
    found = entries(tar(("f", "x", {"uid": 3_000_000_000, "gid": 2_097_152, "mtime": -5}), format=format))
    assert (found["x"].uid, found["x"].gid, found["x"].mtime) == (3_000_000_000, 2_097_152, -5)


def test_fractions_of_a_second_are_kept() -> None:
    assert entries(tar(("f", "x", {"mtime": 12.25})))["x"].mtime == 12.25


def test_names_that_are_not_utf8_survive() -> None:
    assert "caf\udce9" in entries(tar(("f", "caf\udce9"), format=tarfile.GNU_FORMAT))


def test_extended_attributes_are_read_whichever_way_they_are_written() -> None:
    pax = {"SCHILY.xattr.user.b": "2", "LIBARCHIVE.xattr.user.a%3D": "AAEC", "SCHILY.xattr.trusted.overlay.opaque": "y"}
    found = entries(tar(("f", "x", {"pax_headers": pax})))
    assert found["x"].xattrs == (("user.a=", b"\0\1\2"), ("user.b", b"2"))


def test_binary_attributes_survive() -> None:
    value = b"\x01\x00\x00\x02\x00=\n\xff"
    text = value.decode("utf-8", "surrogateescape")
    pax = {"SCHILY.xattr.security.capability": text, "hdrcharset": "BINARY"}
    assert entries(tar(("f", "x", {"pax_headers": pax})))["x"].xattrs == (("security.capability", value),)


def test_global_headers_are_ignored_as_docker_ignores_them() -> None:
    found = entries(tar(("f", "x", {"data": b"1"}), pax_headers={"comment": "a commit", "path": "elsewhere"}))
    assert list(found) == ["x"]


def test_names_are_cleaned() -> None:
    found = entries(tar(("d", "./"), ("f", "/abs"), ("f", "./a//b"), ("d", "c/./")))
    assert sorted(found) == ["", "a/b", "abs", "c"]


def test_a_whiteout_is_an_entry_of_what_it_hides() -> None:
    found = entries(tar(("d", "etc"), ("f", "etc/.wh.passwd", {"data": b"ignored"}), ("f", "z", {"data": b"1"})))
    assert found["etc/passwd"].type is EntryType.WHITEOUT
    assert "z" in found


def test_a_device_that_overlayfs_takes_for_a_whiteout_is_one() -> None:
    assert entries(tar(("c", "gone")))["gone"].type is EntryType.WHITEOUT


@pytest.mark.parametrize("order", [1, -1])
def test_an_opaque_marker_belongs_to_its_directory_wherever_it_stands(order: int) -> None:
    data = tar(*[("d", "etc", {"mode": 0o700}), ("f", "etc/.wh..wh..opq")][::order])
    assert entries(data) == {"etc": Entry("etc", EntryType.DIRECTORY, 0o700, mtime=0, opaque=True)}


def test_an_opaque_marker_without_its_directory_makes_no_entry() -> None:
    found = contents(tar(("f", "etc/.wh..wh..opq"), ("f", "usr/x")))
    assert [entry.path for entry, _ in found.entries] == ["usr/x"]
    assert found.implied == (("", False), ("etc", True), ("usr", False))


def test_auf_files_are_ignored() -> None:
    data = tar(
        ("d", ".wh..wh.plnk"), ("f", ".wh..wh.plnk/12.34", {"data": b"x" * 600}), ("f", ".wh..wh.aufs"), ("f", "y")
    )
    assert list(entries(data)) == ["y"]


def test_a_directory_that_is_removed_and_made_again_is_opaque() -> None:
    data = tar(("f", ".wh.lib"), ("d", "lib", {"mode": 0o700}), ("f", "lib/x"), ("f", ".wh.opt"), ("f", "opt/x"))
    found = entries(data)
    assert found["lib"].opaque
    assert found["lib"].mode == 0o700
    assert (found["opt"].type, found["opt"].opaque, found["opt"].mode) == (EntryType.DIRECTORY, True, 0o755)


def test_a_file_that_is_removed_and_made_again_is_that_file() -> None:
    assert entries(tar(("f", ".wh.x"), ("f", "x", {"data": b"new"})))["x"].size == 3
    assert entries(tar(("f", "x", {"data": b"new"}), ("f", ".wh.x")))["x"].size == 3


def test_of_two_entries_for_a_path_the_last_counts() -> None:
    found = contents(
        tar(("f", "x", {"data": b"old"}), ("d", "d"), ("f", "x", {"data": b"newer"}), ("d", "d", {"mode": 0o700}))
    )
    by_path = {entry.path: (entry, offset) for entry, offset in found.entries}
    assert by_path["x"][0].size == 5
    assert by_path["d"][0].mode == 0o700
    assert by_path["x"][1] == 512 * 4  # header and content of the first, the directory, its own header


def test_hard_links_point_at_the_file_itself() -> None:
    data = tar(
        ("f", "a", {"mode": 0o600}), ("h", "b", {"linkname": "./a"}), ("h", "c", {"linkname": "/b", "mode": 0o777})
    )
    found = entries(data)
    assert (found["c"].link, found["c"].mode) == ("a", 0o600)


def test_a_hard_link_to_a_symlink_is_the_same_symlink() -> None:
    assert entries(tar(("l", "a", {"linkname": "x"}), ("h", "b", {"linkname": "a"})))["b"].link == "x"


def test_symlinks_of_the_layer_are_followed_inside_it() -> None:
    data = tar(
        ("l", "lib", {"linkname": "/usr/lib"}),
        ("f", "lib/x"),
        ("l", "usr/lib/deep", {"linkname": "../../../../../opt"}),
        ("f", "lib/deep/y"),
        ("h", "lib/z", {"linkname": "lib/x"}),
        ("f", "lib/.wh.gone"),
    )
    found = entries(data)
    assert sorted(found) == ["lib", "opt/y", "usr/lib/deep", "usr/lib/gone", "usr/lib/x", "usr/lib/z"]
    assert found["usr/lib/z"].link == "usr/lib/x"


def test_a_symlink_that_is_replaced_is_not_followed_any_more() -> None:
    data = tar(
        ("l", "a", {"linkname": "b"}),
        ("f", "a/1"),
        ("l", "a", {"linkname": "c"}),
        ("f", "a/2"),
        ("d", "a"),
        ("f", "a/3"),
    )
    assert sorted(entries(data)) == ["a", "a/3", "b/1", "c/2"]


def test_content_is_given_in_pieces_and_what_is_not_read_is_passed_over() -> None:
    data = tar(("f", "a", {"data": b"x" * 3_000_000}), ("f", "b", {"data": b"second"}), ("f", "c", {"data": b"third"}))
    read = {}
    for member in LayerReader(io.BytesIO(data), LayerLimits()):
        if member.entry.path == "a":
            assert member.content.read(10) == b"x" * 10
        else:
            read[member.entry.path] = member.content.read()
            assert data[member.offset :].startswith(read[member.entry.path])
    assert read == {"b": b"second", "c": b"third"}


def test_entries_that_have_no_content_have_none_whatever_their_size_says() -> None:
    data = bytearray(tar(("d", "d"), ("f", "x", {"data": b"1"})))
    data[124:136] = b"00000001000\0"
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * 32)
    assert sorted(entries(bytes(data))) == ["d", "x"]


def test_a_tar_without_its_end_is_whole_if_its_last_entry_is() -> None:
    data = tar(("f", "x", {"data": b"1"}))[:1024]
    assert list(entries(data)) == ["x"]


def test_old_tars_without_a_magic_are_read() -> None:
    block = bytearray(tar(("f", "dir/", {"mode": 0o700}))[:512])
    block[156:157] = b"\0"
    block[257:345] = bytes(88)
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:512]) + 8 * 32)
    assert entries(bytes(block))["dir"].type is EntryType.DIRECTORY


def test_the_diff_id_covers_what_stands_behind_the_end() -> None:
    data = tar(("f", "x"))
    ids = set()
    for more in (b"", bytes(512), b"trailing"):
        reader = LayerReader(io.BytesIO(data + more), LayerLimits())
        assert [member.entry.path for member in reader] == ["x"]
        ids.add(reader.stream.diff_id)
    assert len(ids) == 3


def test_more_entries_than_allowed_are_refused() -> None:
    data = tar(*[("f", f"{number}") for number in range(11)])
    with pytest.raises(UntrustedDataError) as caught:
        list(LayerReader(io.BytesIO(data), LayerLimits(max_entries=10)))
    assert caught.value.code == "layer-too-large"


def test_more_metadata_than_allowed_is_refused() -> None:
    data = tar(*[("f", f"{number}", {"pax_headers": {"SCHILY.xattr.user.x": "y" * 1000}}) for number in range(11)])
    with pytest.raises(UntrustedDataError) as caught:
        list(LayerReader(io.BytesIO(data), LayerLimits(max_metadata=10_000)))
    assert caught.value.code == "layer-too-large"


def test_headers_are_read_fast_enough_for_large_images() -> None:
    data = tar(*[("f", f"usr/share/doc/package-{number // 10}/file-{number}") for number in range(4000)])
    started = time.process_time()
    assert len(entries(data)) == 4000
    # 20,000 a second is the aim, and what an idle machine does thrice over; this only notices disasters
    assert time.process_time() - started < 2
