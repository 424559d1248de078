"""Layers turned into squashfs disks, whole or not at all."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.layers import disk as disk_module
from engine.layers.disk import making_disk
from engine.layers.entry import Entry, EntryType
from engine.layers.flatten import merge_disk
from engine.layers.index import LayerIndex
from engine.layers.layerdisk import disk_id, disk_path, make_disk, prepare_layer
from engine.layers.limits import LayerLimits
from engine.layers.root import RootView
from engine.layers.tarwrite import Item, write_layer
from machinefile.errors import HostError, UntrustedDataError

LIMITS = LayerLimits()


def diff_id(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def file(path: str, data: bytes = b"", **fields) -> Item:  # type: ignore[no-untyped-def]
    return Item(Entry(path, EntryType.FILE, size=len(data), **fields), partial(io.BytesIO, data))


def layer(*items: Item) -> tuple[bytes, LayerIndex]:
    out = io.BytesIO()
    index = write_layer(items, out).index
    return out.getvalue(), index


def described(disk: Path) -> dict[str, str]:
    """What `rdsquashfs` says of each path."""
    text = subprocess.run(["rdsquashfs", "--describe", str(disk)], capture_output=True, check=True, timeout=20).stdout
    found = {}
    for line in text.decode().splitlines():
        kind, path, rest = line.split(" ", 2)
        found[path] = f"{kind} {rest}"
    return found


def read(disk: Path, path: str) -> bytes:
    return subprocess.run(["rdsquashfs", "--cat", path, str(disk)], capture_output=True, check=True, timeout=20).stdout


def attributes(disk: Path, path: str) -> str:
    command = ["rdsquashfs", "--xattr", path, str(disk)]
    return subprocess.run(command, capture_output=True, check=True, timeout=20).stdout.decode()


def test_one_pass_checks_indexes_and_makes_the_disk(tmp_path: Path) -> None:
    data, index = layer(
        Item(Entry("etc", EntryType.DIRECTORY, 0o750, gid=5, opaque=True)),
        file("etc/passwd", b"root:x:0:0::/:\n"),
        file("usr/bin/ping", b"ELF" * 100_000, mode=0o4755, xattrs=(("security.capability", b"\1\0\0\2\n"),)),
        Item(Entry("usr/bin/ping6", EntryType.HARDLINK, link="usr/bin/ping")),
        Item(Entry("gone", EntryType.WHITEOUT)),
        Item(Entry("null", EntryType.CHARACTER, 0o666, device=(1, 3))),
        Item(Entry("sh", EntryType.SYMLINK, 0o777, link="usr/bin/sh")),
    )
    prepared = prepare_layer(io.BytesIO(gzip.compress(data)), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path)
    assert prepared.index == index
    assert prepared.disk is not None
    assert list(tmp_path.iterdir()) == [prepared.disk]
    found = described(prepared.disk)
    assert found["etc"] == "dir 0750 0 5"
    assert found["usr/bin/ping"] == "file 04755 0 0"
    assert found["gone"] == "nod 00 0 0 c 0 0"
    assert found["null"] == "nod 0666 0 0 c 1 3"
    assert found["sh"] == "slink 0777 0 0 usr/bin/sh"
    assert read(prepared.disk, "usr/bin/ping6") == b"ELF" * 100_000
    assert "trusted.overlay.opaque=y" in attributes(prepared.disk, "etc")
    assert "security.capability=0x010000020A" in attributes(prepared.disk, "usr/bin/ping")
    assert prepared.index.kept("etc/passwd") == b"root:x:0:0::/:\n"


def test_implied_directories_are_what_they_are_below(tmp_path: Path) -> None:
    _, base = layer(
        Item(Entry("", EntryType.DIRECTORY, 0o711, uid=3)),
        Item(Entry("home", EntryType.DIRECTORY, 0o2770, uid=1, gid=2, xattrs=(("user.a", b"b"),))),
    )
    data, index = layer(file("home/app/x", b"1"))
    below = RootView([base])
    prepared = prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path, below=below)
    assert prepared.disk == disk_path(tmp_path, index, below)
    assert prepared.disk is not None
    found = described(prepared.disk)
    assert found["home"] == "dir 02770 1 2"
    assert found["home/app"] == "dir 0755 0 0"
    assert "user.a=b" in attributes(prepared.disk, "home")
    listing = subprocess.run(["unsquashfs", "-lln", str(prepared.disk)], capture_output=True, check=True, timeout=20)
    assert listing.stdout.decode().splitlines()[-4].startswith("drwx--x--x 3/0")
    assert disk_path(tmp_path, index, RootView([])) != prepared.disk


def test_a_layer_on_plain_directories_has_one_disk_whatever_is_below() -> None:
    _, index = layer(file("home/app/x", b"1"))
    _, base = layer(Item(Entry("home", EntryType.DIRECTORY, 0o755)), file("home/y"))
    ids = [disk_id(index.diff_id, RootView(below).implied(index)) for below in ([], [base])]
    assert ids[0] == ids[1]
    assert len(ids[0]) == 64


def test_an_opaque_marker_alone_makes_an_opaque_directory_as_it_was_below(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("etc/.wh..wh..opq"))
    _, base = layer(Item(Entry("etc", EntryType.DIRECTORY, 0o700)), file("etc/x"))
    data = out.getvalue()
    prepared = prepare_layer(
        io.BytesIO(data), diff_id=diff_id(data), limits=LIMITS, folder=tmp_path, below=RootView([base])
    )
    assert prepared.disk is not None
    assert described(prepared.disk) == {"etc": "dir 0700 0 0"}
    assert "trusted.overlay.opaque=y" in attributes(prepared.disk, "etc")
    view = RootView([base, prepared.index])
    assert view.children("etc") == ()
    found = view.lookup("etc")
    assert found is not None
    assert found.entry.mode == 0o700


@pytest.mark.parametrize("last", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_path_that_comes_twice_is_what_it_was_last(last: bytes, tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind, data in ((tarfile.REGTYPE, b"old"), (tarfile.REGTYPE, b"older"), (last, b"new")):
            info = tarfile.TarInfo("x")
            info.type = kind
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(data))
        archive.addfile(tarfile.TarInfo("y"))
    data = out.getvalue()
    prepared = prepare_layer(io.BytesIO(data), diff_id=diff_id(data), limits=LIMITS, folder=tmp_path)
    assert prepared.disk is not None
    assert list(tmp_path.iterdir()) == [prepared.disk]
    kinds = {tarfile.REGTYPE: "file", tarfile.DIRTYPE: "dir", tarfile.FIFOTYPE: "pipe"}
    assert described(prepared.disk)["x"].startswith(kinds[last])
    assert "y" in described(prepared.disk)
    if last == tarfile.REGTYPE:
        assert read(prepared.disk, "x") == b"new"


def test_a_wrong_diff_id_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    data, _ = layer(file("x", b"1"))
    with pytest.raises(UntrustedDataError) as caught:
        prepare_layer(io.BytesIO(data), diff_id=diff_id(b""), limits=LIMITS, folder=tmp_path)
    assert caught.value.code == "diff-id-mismatch"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_can_be_made_again_from_the_index(tmp_path: Path) -> None:
    data, index = layer(file("x", b"1" * 5000), file("usr/y", b"2"), Item(Entry("z", EntryType.WHITEOUT)))
    first = prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path / "a").disk
    assert first is not None
    second = make_disk(io.BytesIO(gzip.compress(data)), tmp_path / "b", index=index)
    assert second.name == first.name
    assert second.read_bytes() == first.read_bytes()
    assert make_disk(io.BytesIO(b"not looked at"), tmp_path / "b", index=index) == second


def test_making_a_disk_again_from_another_blob_is_refused(tmp_path: Path) -> None:
    _, index = layer(file("x", b"1"))
    other, _ = layer(file("x", b"2"))
    with pytest.raises(UntrustedDataError) as caught:
        make_disk(io.BytesIO(other), tmp_path, index=index)
    assert caught.value.code == "diff-id-mismatch"
    assert list(tmp_path.iterdir()) == []


def test_attributes_that_squashfs_cannot_hold_stay_in_the_layer(tmp_path: Path) -> None:
    data, index = layer(file("x", b"1", xattrs=(("system.posix_acl_access", b"\2"), ("user.", b""), ("user.a", b"b"))))
    disk = prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path).disk
    assert disk is not None
    assert attributes(disk, "x").split() == ["user.a=b"]


def test_the_disk_can_be_read_by_others_and_is_not_executable(tmp_path: Path) -> None:
    data, index = layer(file("x", b"1"))
    disk = prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path).disk
    assert disk is not None
    assert stat.S_IMODE(disk.stat().st_mode) == 0o644


@pytest.fixture
def fake_tar2sqfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A tar2sqfs that behaves as told."""

    def install(script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "tar2sqfs"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return install


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("echo bad luck >&2; exit 3", "disk-failed", "bad luck"),
        ("cat >/dev/null; echo bad end >&2; exit 3", "disk-failed", "bad end"),
        ("echo 'write: No space left on device' >&2; exit 1", "disk-full", "No space left"),
        ("kill -9 $$", "disk-failed", "no message"),
    ],
)
def test_a_tar2sqfs_that_dies_is_an_error_with_its_words(
    fake_tar2sqfs, tmp_path: Path, script: str, code: str, text: str
) -> None:  # type: ignore[no-untyped-def]
    fake_tar2sqfs(script)
    data, index = layer(file("x", os.urandom(3 << 20)))
    with pytest.raises(HostError) as caught:
        prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path / "disks")
    assert caught.value.code == code
    assert text in caught.value.message
    assert list((tmp_path / "disks").iterdir()) == []


def test_a_missing_tar2sqfs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "_PROGRAM", "tar2sqfs-that-is-not-there")
    data, index = layer(file("x"))
    with pytest.raises(HostError) as caught:
        prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path)
    assert caught.value.code == "program-missing"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    data, index = layer(file("x"))
    with pytest.raises(HostError) as caught:
        prepare_layer(io.BytesIO(data), diff_id=index.diff_id, limits=LIMITS, folder=tmp_path / "file")
    assert caught.value.code == "disk-failed"


def test_a_full_file_system_says_so() -> None:
    error = disk_module._cannot_write(Path("/store"), OSError(errno.ENOSPC, "No space left on device"))
    assert error.code == "disk-full"
    assert "/store" in error.message


def test_an_exception_while_making_a_disk_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), making_disk(tmp_path / "disk") as disk:
        disk.add_file(Entry("x", EntryType.FILE, size=2), interrupted())
    assert list(tmp_path.iterdir()) == []


def test_many_layers_make_one_disk(tmp_path: Path) -> None:
    base, base_index = layer(
        file("a", b"base"), file("b", b"linked"), Item(Entry("c", EntryType.HARDLINK, link="b")), file("d/e", b"gone")
    )
    top, top_index = layer(
        file("a", b"top"), Item(Entry("b", EntryType.WHITEOUT)), Item(Entry("d", EntryType.WHITEOUT))
    )
    merge_disk(
        [base_index, top_index],
        [partial(io.BytesIO, gzip.compress(base)), partial(io.BytesIO, top)],
        tmp_path / "merged",
    )
    assert sorted(described(tmp_path / "merged")) == ["a", "c"]
    assert read(tmp_path / "merged", "a") == b"top"
    assert read(tmp_path / "merged", "c") == b"linked"
