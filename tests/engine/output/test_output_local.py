"""The files of an image in a folder of the host, also when the image means harm."""

from __future__ import annotations

import os
import stat
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from output_support import RICH, TIME, device, file, folder, hard_link, layer, member, symlink, tell

from engine.layers.entry import Entry, EntryType
from engine.layers.flatten import Merged
from engine.layers.root import Located
from engine.output.hostfolder import HostFolder
from engine.output.local import write_local
from machinefile.errors import HostError, InterruptedBuildError, UntrustedDataError

if TYPE_CHECKING:
    from .conftest import Press


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def everything_below(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


def test_files_modes_times_and_links_are_as_in_the_image(press: Press) -> None:
    out = press.folder / "out"
    press.write([RICH], f"type=local,dest={out}")
    told = tell(RICH)
    devices = {"dev/null", "dev/loop0"}
    assert everything_below(out) == set(told) - devices
    for path, (kind, mode, _, _, mtime, content, _) in told.items():
        if path in devices:
            continue
        found = (out / path).lstat()
        assert found.st_mtime == mtime, path
        assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid()), path
        assert isinstance(mode, int)
        if kind == tarfile.REGTYPE:
            assert (out / path).read_bytes() == content
            assert stat.S_IMODE(found.st_mode) == mode & ~0o6000, path
        elif kind == tarfile.SYMTYPE:
            assert os.readlink(out / path) == content
        else:
            assert stat.S_IMODE(found.st_mode) == mode, path
    assert (out / "bin/su").stat().st_ino == (out / "bin/zu").stat().st_ino
    assert (out / "dev/pipe").is_fifo()


def test_what_a_folder_cannot_hold_is_counted_in_one_line(press: Press) -> None:
    out = press.folder / "out"
    press.write([RICH], f"type=local,dest={out}")
    said = [note for note in press.notes if "lacks" in note]
    assert len(said) == 1
    for part in ("2 devices", "1 set-id bits", "3 owners other than root", "1 extended attributes"):
        assert part in said[0]
    press.write([layer(folder("a"), file("a/b"))], f"type=local,dest={press.folder}/plain")
    assert len([note for note in press.notes if "lacks" in note]) == 1


def test_files_are_added_to_a_folder_and_take_the_place_of_what_has_their_name(press: Press) -> None:
    out = press.folder / "out"
    (out / "keep").mkdir(parents=True)
    (out / "keep/mine").write_text("mine")
    (out / "old").write_text("old")
    (out / "folder-now").write_text("a file")
    (out / "file-now/deep/er").mkdir(parents=True)
    (out / "file-now/deep/er/x").write_text("x")
    out.chmod(0o711)
    image = layer(
        folder("keep"), file("keep/theirs"), file("old", b"new"), folder("folder-now"), file("file-now", b"f")
    )
    for _ in range(2):
        press.write([image], f"type=local,dest={out}")
    assert everything_below(out) == {"keep", "keep/mine", "keep/theirs", "old", "folder-now", "file-now"}
    assert (out / "old").read_bytes() == b"new"
    assert (out / "folder-now").is_dir()
    assert (out / "file-now").read_bytes() == b"f"
    assert mode_of(out) == 0o711, "the folder itself is the user's"


def test_the_same_folder_is_written_again_although_its_directories_forbid_it(press: Press) -> None:
    out = press.folder / "out"
    shut = layer(folder("a", mode=0o500), folder("a/b", mode=0), file("a/b/c", b"1", mode=0), file("a/d", mode=0o400))
    for _ in range(2):
        press.write([shut], f"type=local,dest={out}")
    assert mode_of(out / "a") == 0o500
    (out / "a").chmod(0o700)
    assert mode_of(out / "a/b") == 0
    (out / "a/b").chmod(0o700)
    assert mode_of(out / "a/b/c") == 0


def test_a_file_that_is_hard_linked_elsewhere_is_replaced_and_not_written_into(press: Press) -> None:
    elsewhere = press.folder / "elsewhere"
    elsewhere.write_text("mine")
    (press.folder / "out").mkdir()
    os.link(elsewhere, press.folder / "out/file")
    press.write([layer(file("file", b"theirs"))], f"type=local,dest={press.folder}/out")
    assert elsewhere.read_text() == "mine"
    assert (press.folder / "out/file").read_bytes() == b"theirs"


HOSTILE = {
    "a link, then a file through it": (symlink("x", "{outside}"), file("x/evil")),
    "a link, then a folder in its place": (symlink("x", "{outside}"), folder("x"), file("x/evil")),
    "a link up": (symlink("x", ".."), file("x/outside/evil")),
    "a link to a link": (symlink("x", "{outside}"), symlink("y", "x"), file("y/evil")),
    "a hard link through a link": (symlink("x", "{outside}"), hard_link("evil", "x/victim")),
    "a hard link to a link": (symlink("x", "{outside}/victim"), hard_link("y", "x"), file("y", b"evil")),
    "a file over a link": (symlink("x", "{outside}/victim"), file("x", b"evil")),
    "dots": (file("../outside/evil"),),
    "dots inside": (folder("a"), file("a/../../outside/evil")),
    "an absolute name": (file("{outside}/evil"),),
    "an absolute hard link": (hard_link("x", "{outside}/victim"),),
    "a device": (device("x", 1, 1),),
    "mode of a link's target": (
        symlink("x", "{outside}/victim"),
        member("x", tarfile.SYMTYPE, linkname="{outside}", mode=0),
    ),
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("trick", HOSTILE)
def test_no_image_reaches_beyond_the_folder(press: Press, trick: str, layers: int) -> None:
    outside = press.folder / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    before = (outside.stat().st_mtime_ns, mode_of(outside), mode_of(outside / "victim"))
    members = []
    for entry, data in HOSTILE[trick]:
        changed = tarfile.TarInfo(entry.name.replace("{outside}", str(outside)))
        changed.linkname = entry.linkname.replace("{outside}", str(outside))
        changed.type, changed.size, changed.mode, changed.mtime = entry.type, entry.size, entry.mode, TIME
        members.append((changed, data))
    image = [layer(*members)] if layers == 1 else [layer(one) for one in members]
    try:
        press.write(image, f"type=local,dest={press.folder}/out")
    except UntrustedDataError as error:
        refused = error.code
    else:
        refused = ""
    assert refused == "" or refused.startswith("layer-")
    assert (outside / "victim").read_text() == "untouched"
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside.stat().st_mtime_ns, mode_of(outside), mode_of(outside / "victim")) == before


def test_links_that_are_in_the_folder_already_lead_nowhere(press: Press) -> None:
    outside = press.folder / "outside"
    outside.mkdir(mode=0o700)
    (outside / "victim").write_text("untouched")
    out = press.folder / "out"
    out.mkdir()
    (out / "a").symlink_to(outside)
    (out / "f").symlink_to(outside / "victim")
    (out / "gone").symlink_to(press.folder / "made")
    image = layer(folder("a", mode=0o777), file("a/evil"), file("f", b"new"), file("gone", b"new"))
    press.write([image], f"type=local,dest={out}")
    assert (outside / "victim").read_text() == "untouched"
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert mode_of(outside) == 0o700
    assert not (press.folder / "made").exists()
    assert (out / "a/evil").is_file()
    assert not (out / "a").is_symlink()


def test_a_folder_that_becomes_a_link_while_it_is_written_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with HostFolder(tmp_path / "out") as host:
        host.make_directory("a")
        (tmp_path / "out/a").rmdir()
        (tmp_path / "out/a").symlink_to(tmp_path / "outside")
        for attempt in (
            lambda: host.symlink("a/x", "y", 0),
            lambda: host.fifo("a/x", 0o600, 0),
            lambda: host.make_directory("a/x"),
            lambda: host.link("x", "a/y"),
        ):
            with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
                attempt()
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_folder_in_a_files_place_is_removed_without_following_its_links(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_text("untouched")
    (tmp_path / "out/x/y").mkdir(parents=True)
    (tmp_path / "out/x/y/link").symlink_to(tmp_path / "outside")
    with HostFolder(tmp_path / "out") as host:
        host.symlink("x", "y", 0)
    assert os.readlink(tmp_path / "out/x") == "y"
    assert (tmp_path / "outside/victim").read_text() == "untouched"


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", ".", "a/./x", "/x", "a//x", "x\0y", ""])
def test_a_path_that_no_layer_may_have_is_refused_once_more(tmp_path: Path, path: str) -> None:
    (tmp_path / "out/a").mkdir(parents=True)
    with HostFolder(tmp_path / "out") as host:
        with pytest.raises(UntrustedDataError):
            host.symlink(path, "target", 0)
        with pytest.raises(UntrustedDataError):
            host.make_directory(path)
    assert everything_below(tmp_path) == {"out", "out/a"}


@given(st.text("ab./\0\n", min_size=1, max_size=8))
def test_whatever_the_path_everything_stays_inside(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    place = tmp_path_factory.mktemp("host")
    with HostFolder(place / "out") as host:
        host.make_directory("a")
        try:
            host.symlink(path, "/", 0)
        except (UntrustedDataError, OSError):
            made = False
        else:
            made = True
    assert [found.name for found in place.iterdir()] == ["out"]
    assert made == (path != "a" and (place / "out" / path).is_symlink()) or path == "a"


def test_long_names_and_deep_folders_are_written(press: Press) -> None:
    deep = "/".join(["d" * 250] * 15)
    folders = [folder("/".join(["d" * 250] * depth)) for depth in range(1, 16)]
    out = press.folder / "out"
    press.write([layer(*folders, file(deep + "/f", b"deep"), file("é" * 127, b"long"))], f"type=local,dest={out}")
    assert (out / ("é" * 127)).read_bytes() == b"long"
    at = os.open(out, os.O_RDONLY)
    for part in deep.split("/"):
        at, above = os.open(part, os.O_RDONLY, dir_fd=at), at
        os.close(above)
    assert os.listdir(at) == ["f"]
    os.close(at)


def test_names_that_are_no_text_are_kept(press: Press) -> None:
    press.write([layer(file("\udcff\udcfe"))], f"type=local,dest={press.folder}/out")
    assert os.listdir(os.fsencode(press.folder / "out")) == [b"\xff\xfe"]


class Broken:
    """The contents of layers, the second of which cannot be read."""

    def __init__(self, good: Located) -> None:
        self._good = good

    def stream(self, wanted: object) -> object:
        class Content:
            def __init__(self) -> None:
                self.left = 2

            def read(self, size: int = -1) -> bytes:
                self.left -= 1
                if not self.left:
                    raise UntrustedDataError("cut short", code="layer-corrupt")
                return b"half"

        yield (self._good,), Content()


def test_a_failure_leaves_no_half_written_file(tmp_path: Path) -> None:
    entry = Entry("f", EntryType.FILE, size=8)
    located = Located(entry, 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/f").write_text("old")
    with pytest.raises(UntrustedDataError):
        write_local([Merged(entry, located)], Broken(located), tmp_path / "out", threading.Event())  # type: ignore[arg-type]
    assert everything_below(tmp_path) == {"out", "out/f"}
    assert (tmp_path / "out/f").read_text() == "old"


def test_a_stopped_build_stops_writing(press: Press) -> None:
    press.write([RICH])
    press.workshop.cancelled.set()
    with pytest.raises(InterruptedBuildError):
        press.write([RICH], f"type=local,dest={press.folder}/out")


def test_a_folder_that_must_not_be_written_is_named(press: Press) -> None:
    if os.getuid() == 0:
        target = Path("/proc/mbuild-test")
    else:
        (press.folder / "shut").mkdir(mode=0o500)
        target = press.folder / "shut/out"
    with pytest.raises(HostError) as caught:
        press.write([RICH], f"type=local,dest={target}")
    assert caught.value.code == "output-failed"
    assert str(target) in caught.value.message
