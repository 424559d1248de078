"""Layers that are odd and no more: what an image with them holds is what umoci unpacks of it."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from output_support import file, folder, hard_link, layer, run, symlink

if TYPE_CHECKING:
    from .conftest import Press

Member = tuple[tarfile.TarInfo, bytes]
Seen = Mapping[str, tuple[object, ...]]

LOWER = layer(
    folder("d"), file("d/f", b"lower"), file("d/g", b"lower"), folder("d/e"), file("d/e/h", b"lower"),
    file("f", b"lower"), symlink("l", "d"), symlink("dangling", "nowhere"), file("1", b"one"), hard_link("2", "1"),
)  # fmt: skip


def whiteout(path: str) -> Member:
    parent, slash, name = path.rpartition("/")
    return file(f"{parent}{slash}.wh.{name}", b"")


def opaque(path: str) -> Member:
    return file(f"{path}/.wh..wh..opq", b"")


ODD: dict[str, list[Member]] = {
    "whiteout of what is not there": [whiteout("none"), whiteout("d/none")],
    "whiteout of a file": [whiteout("d/f")],
    "whiteout of a directory": [whiteout("d")],
    "whiteout of a symlink": [whiteout("l")],
    "whiteout of one of two hard links": [whiteout("1")],
    "whiteout of a whole directory and a new one": [whiteout("d"), folder("d"), file("d/new")],
    "opaque directory": [folder("d"), opaque("d"), file("d/new")],
    "opaque directory, marked at its end": [folder("d"), file("d/new"), opaque("d")],
    "opaque directory inside another": [folder("d"), folder("d/e"), opaque("d/e")],
    "file with content named as a whiteout": [file("d/.wh.f", b"content")],
    "entry twice": [file("x", b"1"), file("x", b"22")],
    "directory twice": [folder("x", 0o700), folder("x", 0o711)],
    "directory after what is in it": [file("x/y"), folder("x", 0o711)],
    "no entry for the parents": [file("a/b/c/d")],
    "no entry for a parent that is below": [file("d/new")],
    "file in a directory's place": [file("d")],
    "directory in a file's place": [folder("f"), file("f/x")],
    "directory in a symlink's place": [folder("l"), file("l/x")],
    "file in a symlink's place": [file("l", b"upper")],
    "symlink in a file's place": [symlink("f", "d")],
    "symlink in a directory's place": [symlink("d", "f")],
    "directory in a dangling symlink's place": [folder("dangling")],
    "absolute names": [file("/x"), folder("/y"), file("/y/z")],
    "dots and slashes in names": [file("./x"), folder("./y/"), file("y//z"), file("./y/./w")],
    "the root itself": [folder("./", 0o755), file("x")],
    "hard link by an absolute name": [file("x"), hard_link("y", "/x")],
    "hard link with dots": [file("x"), hard_link("y", "./x")],
    "hard link to a symlink": [symlink("x", "d"), hard_link("y", "x")],
    "symlinks that point out of the tree": [symlink("x", "../../../etc/passwd"), symlink("y", "/etc")],
    "symlink to itself": [symlink("x", "x")],
    "names that are not UTF-8": [file("caf\udce9"), folder("\udcff"), file("\udcff/\udcfe")],
    "names of many kinds": [file("new\nline"), file("sp ace"), file("-n"), file("\x1b[31m"), file("é" * 100)],
    "long names": [file("/".join(["n" * 90] * 5)), symlink("s" * 200, "t" * 900)],
    "modes of all kinds": [file("x", mode=0o7777), folder("y", 0o3775), file("z", mode=0o400)],
    "a file and then its whiteout": [file("x"), whiteout("x")],
    "a whiteout and then its file": [whiteout("f"), file("f", b"new")],
    "a whiteout and then its directory": [whiteout("d"), folder("d"), file("d/new")],
    "a directory and then its whiteout": [folder("d"), file("d/new"), whiteout("d")],
    "below a symlink of its own": [folder("t"), symlink("s", "t"), file("s/x")],
    "a file without content": [file("x", b"")],
}
"""Above LOWER."""


def written(tar: bytes) -> Seen:
    """What a tar holds; a hard link counts as its file."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for entry in opened:
            name = entry.name.removeprefix("./").strip("/")
            if entry.isdir():
                found[name] = ("directory", entry.mode)
            elif entry.issym():
                found[name] = ("symlink", entry.linkname)
            elif entry.islnk():
                found[name] = found[entry.linkname]
            else:
                content = opened.extractfile(entry)
                assert content is not None
                found[name] = ("file", entry.mode, content.read())
    found.pop("", None)
    found.pop(".", None)
    return found


def unpacked(root: Path) -> Seen:
    """What a folder holds."""
    found: dict[str, tuple[object, ...]] = {}
    for parent, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = Path(parent, name)
            about, key = path.lstat(), str(path.relative_to(root))
            if stat.S_ISDIR(about.st_mode):
                found[key] = ("directory", stat.S_IMODE(about.st_mode))
            elif stat.S_ISLNK(about.st_mode):
                found[key] = ("symlink", os.readlink(path))
            else:
                found[key] = ("file", stat.S_IMODE(about.st_mode), path.read_bytes())
    return found


def both(press: Press, *layers: bytes) -> tuple[Seen, Seen]:
    """What mbuild says an image of these layers holds, and what umoci unpacks of it."""
    number = press.count
    tar, layout, bundle = (press.folder / f"{name}{number}" for name in ("tar", "layout", "bundle"))
    press.write(list(layers), f"type=tar,dest={tar}", f"type=oci,dest={layout},tar=false")
    run("umoci", "unpack", "--rootless", "--image", f"{layout}:latest", bundle)
    return written(tar.read_bytes()), unpacked(bundle / "rootfs")


@pytest.mark.parametrize("case", ODD)
def test_an_odd_layer_is_read_as_umoci_reads_it(press: Press, case: str) -> None:
    ours, theirs = both(press, LOWER, layer(*ODD[case]))
    assert ours == theirs


@pytest.mark.parametrize(
    ("upper", "gained"),
    [
        ([file("l/x")], {"l/x"}),
        ([whiteout("l/f")], set()),
        ([whiteout("f/x")], set()),
        ([whiteout("none/x")], {"none"}),
    ],
    ids=["file", "whiteout", "whiteout below a file", "whiteout below nothing"],
)
def test_a_directory_that_a_layer_only_implies_is_one_as_in_dockers_overlay2(
    press: Press, upper: list[Member], gained: set[str]
) -> None:
    """umoci unpacks onto what the layers below made, and follows their symlinks; overlay2 unpacks each by itself."""
    ours, _ = both(press, LOWER, layer(*upper))
    before, _ = both(press, LOWER)
    assert set(ours) - set(before) == gained
    assert set(before) <= set(ours)
    implied = upper[0][0].name.partition("/")[0]
    assert ours[implied] == ("directory", 0o755)
