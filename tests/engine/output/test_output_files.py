"""The files of an image as one tar, and as disks."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from output_support import CAPABILITY, RICH, TIME, device, file, folder, hard_link, layer, member, run, symlink, tell

from engine.layers.content import LayerFiles
from engine.layers.flatten import merged_entries
from engine.layers.layerdisk import prepare_layer
from engine.layers.limits import LayerLimits
from engine.layers.root import RootView
from engine.output.ext4 import make_ext4
from engine.process import find
from machinefile.errors import HostError, MbuildError, UsageError

if TYPE_CHECKING:
    from .conftest import Press

LOWER = layer(folder("a"), file("a/gone"), file("a/changed", b"old"), folder("b"), file("b/hidden"), symlink("c", "a"))
UPPER = layer(file("a/.wh.gone", b""), file("a/changed", b"new"), file("b/.wh..wh..opq", b""), file("b/seen"))
MERGED = {"a", "a/changed", "b", "b/seen", "c"}


def debugfs(disk: Path, *commands: str) -> str:
    return "".join(run("debugfs", "-R", command, disk).decode() for command in commands)


def checked(disk: Path) -> None:
    """The file system has no fault at all."""
    done = subprocess.run([find("e2fsck") or "e2fsck", "-fn", str(disk)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def kind_of(path: str, disk: Path) -> dict[str, str]:
    said = debugfs(disk, f'stat "{path}"')
    found = re.findall(r"(Type|Mode|User|Group|Size|Links): +([\w ]+?)(?:  |\n|$)", said)
    return {name: value.strip() for name, value in reversed(found)}  # a fragment's size comes later


def test_a_tar_has_everything_that_the_image_has(press: Press) -> None:
    path = press.folder / "root.tar"
    press.write([RICH], f"type=tar,dest={path}")
    assert tell(path.read_bytes()) == tell(RICH)
    with tarfile.open(path) as tar:
        assert tar.getmember("bin/cap").pax_headers["SCHILY.xattr.security.capability"] == CAPABILITY
        names = [entry.name.encode() for entry in tar]
    assert names == sorted(names)


@pytest.mark.parametrize("kind", ["tar", "disk"])
def test_layers_are_merged_and_whiteouts_do_their_work(press: Press, kind: str) -> None:
    path = press.folder / "root"
    press.write([LOWER, UPPER], f"type={kind},dest={path}")
    told = tell(path.read_bytes() if kind == "tar" else run("sqfs2tar", path))
    assert set(told) == MERGED
    assert told["a/changed"][5] == b"new"


def test_equal_files_give_equal_bytes_however_they_are_layered(press: Press) -> None:
    one, other = press.folder / "1", press.folder / "2"
    merged = layer(folder("a"), file("a/changed", b"new"), folder("b"), file("b/seen"), symlink("c", "a"))
    for kind in ("tar", "disk", "disk,format=ext4"):
        press.write([LOWER, UPPER], f"type={kind},dest={one}")
        press.write([merged], f"type={kind},dest={other}")
        assert one.read_bytes() == other.read_bytes(), kind


def test_a_squashfs_has_everything_that_the_image_has(press: Press) -> None:
    path = press.folder / "root.squashfs"
    press.write([RICH], f"type=disk,dest={path}")
    assert tell(run("sqfs2tar", path)) == tell(RICH)


def test_an_ext4_disk_has_owners_devices_times_and_attributes_and_no_fault(press: Press) -> None:
    disk = press.folder / "root.ext4"
    press.write([RICH], f"type=disk,format=ext4,dest={disk}")
    checked(disk)
    assert {"has_journal", "extent", "ext_attr"} <= set(debugfs(disk, "features").split())
    large = kind_of("/bin/large", disk)
    assert (large["Type"], large["User"], large["Group"], large["Size"]) == (
        "regular",
        "70000",
        "80000",
        str(256 * 8192),
    )
    assert kind_of("/home", disk)["Mode"] == "0750"
    su, zu = kind_of("/bin/su", disk), kind_of("/bin/zu", disk)
    assert su == zu
    assert (su["Mode"], su["Links"]) == ("04755", "2")
    assert "Device major/minor number: 01:03" in debugfs(disk, "stat /dev/null")
    assert kind_of("/dev/loop0", disk)["Type"] == "block special"
    assert kind_of("/dev/pipe", disk)["Type"] == "FIFO"
    assert 'Fast link dest: "../etc/passwd"' in debugfs(disk, "stat /home/link")
    assert "mtime: 0x6553f100" in debugfs(disk, "stat /home/été")
    assert "x" * 90 in debugfs(disk, "cat /home/far")
    assert debugfs(disk, 'cat "/home/a b""c"') == "quoted"
    assert debugfs(disk, 'cat "/home/<2>"') == "like an inode's number"
    assert kind_of("/home/<2>", disk)["Size"] == str(len("like an inode's number"))
    assert f"mtime: 0x{TIME:08x}" in debugfs(disk, "stat /etc")
    attributes = debugfs(disk, "ea_list /bin/cap")
    assert 'user.note (1) = "n"' in attributes
    assert "security.capability (20)" in attributes
    out = press.folder / "copy"
    run("debugfs", "-R", f"dump /bin/large {out}", disk)
    assert out.read_bytes() == bytes(range(256)) * 8192


def test_an_ext4_disk_is_as_large_as_asked(press: Press) -> None:
    disk = press.folder / "root.ext4"
    press.write([RICH], f"type=disk,format=ext4,size=100M,dest={disk}")
    assert disk.stat().st_size == 100 << 20
    checked(disk)
    assert disk.stat().st_blocks * 512 < 32 << 20, "what is empty takes no space"


@pytest.mark.parametrize("size", ["1M", "3M", "8M"])
def test_an_ext4_disk_that_is_too_small_is_refused(press: Press, size: str) -> None:
    disk = press.folder / "root.ext4"
    large = layer(*(file(f"f{number}", bytes([number]) * (1 << 20)) for number in range(1, 9)))
    with pytest.raises(MbuildError) as caught:
        press.write([large], f"type=disk,format=ext4,size={size},dest={disk}")
    assert caught.value.code == "disk-too-small"
    assert [path.name for path in press.folder.iterdir() if "ext4" in path.name] == []


@pytest.mark.parametrize("name", ["a\nrm b", "a\rb", "\n"])
def test_a_name_that_would_be_a_command_is_refused(press: Press, name: str) -> None:
    """debugfs reads commands a line each: a name must never become one."""
    disk = press.folder / "root.ext4"
    with pytest.raises(UsageError) as caught:
        press.write([layer(file(name))], f"type=disk,format=ext4,dest={disk}")
    assert caught.value.code == "disk-name"
    assert not disk.exists()
    with pytest.raises(UsageError):
        press.write([layer(symlink("x", name))], f"type=disk,format=ext4,dest={disk}")


def test_odd_images_become_sound_ext4_disks(press: Press) -> None:
    disk = press.folder / "root.ext4"
    many = [file(f"many/{number:05}", b"x" * (number % 7)) for number in range(3000)]
    odd = [
        folder("lost+found", mode=0o750, uid=5),
        file("lost+found/x"),
        folder("deep/" + "/".join("d" * 200 for _ in range(15))),
        file("n" * 255),
        file("-f", b"dash"),
        file("#hash", b"hash"),
        file(' "" ', b"quotes"),
        file("\\back", b"slash"),
        file("\udcff\udcfe", b"no text"),
        file("old", b"", mtime=-5),
        file("new", b"", mtime=1 << 40),
        symlink("self", "self"),
        symlink("sixty", "x" * 60),
        symlink("spaces", " a  b "),
        hard_link("many/link", "many/00001"),
        device("big", 250, 70_000),
    ]
    press.write([layer(folder("many"), *many, *odd)], f"type=disk,format=ext4,dest={disk}")
    checked(disk)
    assert debugfs(disk, "cat ./-f", 'cat "/#hash"', 'cat "/ """" "') == "dashhashquotes"
    assert "Device major/minor number: 250:70000" in debugfs(disk, "stat /big")
    assert kind_of("/lost+found", disk)["Mode"] == "0750"
    assert 'Fast link dest: " a  b "' in debugfs(disk, "stat /spaces")


def test_a_program_that_is_missing_is_named(press: Press, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.process.environment", lambda extra=None: {"PATH": "/nonexistent"})
    for kind in ("disk", "disk,format=ext4"):
        with pytest.raises(HostError) as caught:
            press.write([RICH], f"type={kind},dest={press.folder}/x")
        assert caught.value.code == "program-missing"
        assert "package" in caught.value.hint


NAMES = st.text(st.characters(exclude_characters="/\0\n\r", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..", "lost+found") and not name.startswith(".wh.") and len(name.encode()) < 200
)
CONTENTS = st.one_of(st.binary(max_size=20), st.integers(1, 40_000).map(lambda size: b"ab" * size))


@given(
    st.dictionaries(NAMES, CONTENTS, max_size=6),
    st.dictionaries(NAMES, st.text("ab /.", min_size=1, max_size=80), max_size=3),
    st.integers(0, 0o7777),
    st.integers(0, 1 << 31),
)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_becomes_a_sound_ext4_disk(
    tmp_path_factory: pytest.TempPathFactory,
    contents: dict[str, bytes],
    links: dict[str, str],
    mode: int,
    owner: int,
) -> None:
    place = tmp_path_factory.mktemp("disk")
    members = [file(name, data, mode=mode, uid=owner) for name, data in contents.items()]
    members += [symlink(name, target) for name, target in links.items() if name not in contents]
    plain = layer(
        *members, member("dir", tarfile.DIRTYPE, mode=mode) if "dir" not in {*contents, *links} else folder("e")
    )
    import hashlib

    diff_id = "sha256:" + hashlib.sha256(plain).hexdigest()
    index = prepare_layer(io.BytesIO(plain), diff_id=diff_id, limits=LayerLimits()).index
    files = LayerFiles([index], [lambda: io.BytesIO(plain)])
    (place / "scratch").mkdir()
    disk = place / "disk"
    make_ext4(merged_entries(RootView([index])), files, disk, place / "scratch")
    checked(disk)
    for name, data in contents.items():
        quoted = name.replace('"', '""')
        run("debugfs", "-R", f'dump "/./{quoted}" {place}/out', disk)
        assert (place / "out").read_bytes() == data
