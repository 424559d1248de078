"""Two layers, and what is said of them: the six usual ways to break a build, and each aspect of a file."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import py_compile
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from layer_support import file_item, tar_of

from engine.layers.content import Contents, LayerFiles
from engine.layers.entry import Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.tarwrite import Item
from engine.secrets import Secrets
from engine.verify.difference import Aspect, Cause, FileDifference
from engine.verify.layers import MOST_FILES, Side, compare_layers
from engine.verify.unpack import unpack


def side(tar: bytes) -> Side:
    return Side("sha256:" + hashlib.sha256(tar).hexdigest(), lambda: io.BytesIO(tar), LayerLimits())


def compare(
    first: tuple[Item, ...], second: tuple[Item, ...], hidden: tuple[bytes, ...] = ()
) -> tuple[FileDifference, ...]:
    return compare_layers(side(tar_of(*first)), side(tar_of(*second)), hidden=hidden).files


def compare_file(path: str, first: bytes, second: bytes) -> FileDifference:
    same = file_item("a/same", b"x" * 5000)
    (found,) = compare((same, file_item(path, first)), (same, file_item(path, second)))
    assert found.path == path
    return found


def cause(found: FileDifference) -> Cause | None:
    return found.guess.cause if found.guess else None


def test_a_date_in_a_file() -> None:
    found = compare_file("d", b"Sat Nov 21 17:39:32 UTC 2026\n", b"Sat Nov 21 17:39:33 UTC 2026\n")
    assert cause(found) is Cause.TIMESTAMP
    assert found.diff == ("-Sat Nov 21 17:39:32 UTC 2026", "+Sat Nov 21 17:39:33 UTC 2026")


def test_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    source, made = tmp_path / "a.py", []
    for time in (1_700_000_000, 1_700_100_000):
        source.write_text("x = 1\n")
        os.utime(source, (time, time))
        py_compile.compile(str(source), cfile=str(tmp_path / "a.pyc"), dfile="a.py")
        made.append((tmp_path / "a.pyc").read_bytes())
    found = compare_file("usr/lib/a.pyc", *made)
    assert (cause(found), found.inner) == (Cause.TIMESTAMP, "pyc header")
    assert found.guess is not None
    assert "PYTHONDONTWRITEBYTECODE" in found.guess.mend


def test_logs_and_lists_of_apt() -> None:
    log = compare_file("var/log/dpkg.log", b"2026-11-21 10:00:00 startup\n", b"2026-11-21 10:00:09 startup\n")
    assert cause(log) is Cause.TIMESTAMP
    lists = compare_file("var/lib/apt/lists/deb_InRelease", b"Package: a\n", b"Package: ab\n")
    assert cause(lists) is Cause.NETWORK


def test_the_header_of_gzip() -> None:
    found = compare_file("usr/share/doc/changelog.gz", *(gzip.compress(b"text" * 99, mtime=time) for time in (1, 2)))
    assert (cause(found), found.inner) == (Cause.TIMESTAMP, "gzip header")
    assert found.guess is not None
    assert found.guess.mend.startswith("gzip -n")


def test_a_random_id() -> None:
    ids = "0b9d6f0e-8f34-4e7e-9d0a-000000000001", "7c1d6f0e-8f34-4e7e-9d0a-00000000ab02"
    assert cause(compare_file("app/id", *(f"{one}\n".encode() for one in ids))) is Cause.RANDOM


def _tar(names: str, time: int = 0) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = 1, time
            archive.addfile(member, io.BytesIO(name.encode()))
    return out.getvalue()


def _zip(names: str, year: int = 2000, content: str = "x") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


def _ar(time: int) -> bytes:
    return b"!<arch>\n" + b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"a.o/", time, 0, 0, b"644", 2) + b"ab"


def test_the_order_of_an_archive() -> None:
    for first, second in ((_tar("abc"), _tar("cab")), (_zip("abc"), _zip("cab"))):
        found = compare_file("app/archive", first, second)
        assert (cause(found), found.inner) == (Cause.ORDERING, "members")
    packed = compare_file("app/archive.tgz", *(gzip.compress(_tar(names), mtime=0) for names in ("abc", "cab")))
    assert (cause(packed), packed.inner) == (Cause.ORDERING, "gunzip/members")


def test_times_in_archives() -> None:
    for first, second, inner in (
        (_tar("a", 1), _tar("a", 2), "a"),
        (_zip("a"), _zip("a", 2001), "a"),
        (_ar(1), _ar(2), "a.o/"),
    ):
        found = compare_file("app/archive", first, second)
        assert (cause(found), found.inner) == (Cause.TIMESTAMP, inner)


def test_the_member_of_an_archive_that_differs_is_named() -> None:
    found = compare_file("app.whl", _zip("a", content="pid=1"), _zip("a", content="pid=2"))
    assert (cause(found), found.inner, found.diff) == (Cause.PID, "a", ("-pid=1", "+pid=2"))


@pytest.mark.parametrize("form", ["gzip", "zip", "tar", "ar", "pyc"])
def test_what_only_begins_like_an_archive_is_shown_as_it_is(form: str) -> None:
    begins = {
        "gzip": b"\x1f\x8b\x08\0",
        "zip": b"PK\x03\x04",
        "tar": _tar("a")[:400],
        "ar": b"!<arch>\n" + b"x" * 60,
        "pyc": b"\x61\x0d\r\n\0\0\0\0",
    }[form]
    found = compare_file("file", begins + b"\0one", begins + b"\0two")
    assert found.inner == ""
    assert any(line.startswith("-") for line in found.diff)


@pytest.mark.parametrize("form", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_cannot_be_read_in_pieces_is_not_read(form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """zipfile expands the whole of it at once: 16 MiB become many GiB; and a damaged one is an LZMAError."""
    made = []
    for content in (b"x" * 1000, b"y" * 1000):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", form) as archive:
            archive.writestr(zipfile.ZipInfo("a"), content, form)
        made.append(out.getvalue())

    def refuse(self: zipfile.ZipFile, *_: object) -> None:
        raise lzma.LZMAError

    monkeypatch.setattr(zipfile.ZipFile, "open", refuse)
    found = compare_file("app.zip", *made)
    assert found.inner == ""
    assert found.diff


def test_a_time_without_end_in_a_tar_is_no_time() -> None:
    made = []
    for content in (b"1", b"2"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("a")
            member.size, member.pax_headers = 1, {"mtime": "inf"}
            archive.addfile(member, io.BytesIO(content))
        made.append(out.getvalue())
    assert compare_file("app.tar", *made).inner == ""


def test_of_a_large_file_only_the_beginning_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.verify.layers.MOST_BYTES", 100)
    written: list[int] = []

    class Spy(LayerFiles):
        @contextmanager
        def gather(self, *arguments: Any) -> Iterator[Contents]:
            with super().gather(*arguments) as contents:
                written.append(os.fstat(contents._descriptor).st_size)
                yield contents

    monkeypatch.setattr("engine.verify.layers.LayerFiles", Spy)
    first, second = (tar_of(file_item("a", one * 200), file_item("b", b"b" + one)) for one in (b"1", b"2"))
    files = compare_layers(side(first), side(second), tmp_path).files
    assert written == [102, 102]
    assert files[1].diff == ("-b1", "+b2")


def test_attributes_that_differ_behind_what_is_shown_of_them() -> None:
    items = ((Item(replace(_FILE, xattrs=(("user.a", b"x" * 40 + end),))),) for end in (b"1", b"2"))
    (found,) = compare(*items)
    assert [change.aspect for change in found.changes] == [Aspect.XATTR]


def test_an_attribute_with_a_secret_is_not_shown() -> None:
    items = ((Item(replace(_FILE, xattrs=(("user.a", value),))),) for value in (b"hunter22", b"other"))
    (found,) = compare(*items, hidden=(b"hunter22",))
    assert [(change.first, change.second) for change in found.changes] == [("user.a=***", "user.a=" + b"other".hex())]


_FILE = Entry("f", EntryType.FILE, 0o644)


@pytest.mark.parametrize(
    ("other", "aspect"),
    [
        (replace(_FILE, mode=0o755), Aspect.MODE),
        (replace(_FILE, uid=7), Aspect.OWNER),
        (replace(_FILE, mtime=1.0), Aspect.TIME),
        (replace(_FILE, xattrs=(("user.a", b"1"),)), Aspect.XATTR),
        (replace(_FILE, type=EntryType.SYMLINK, link="x"), Aspect.TYPE),
        (replace(_FILE, type=EntryType.CHARACTER, device=(1, 3)), Aspect.DEVICE),
    ],
)
def test_each_aspect_is_named(other: Entry, aspect: Aspect) -> None:
    (found,) = compare((Item(_FILE),), (Item(other),))
    assert aspect in [change.aspect for change in found.changes]
    assert Aspect.CONTENT not in [change.aspect for change in found.changes]


def test_a_file_of_one_layer_only() -> None:
    (found,) = compare((file_item("a", b""), file_item("b", b"")), (file_item("a", b""),))
    assert [(change.aspect, change.first, change.second) for change in found.changes] == [(Aspect.PRESENCE, "file", "")]


def test_the_order_of_the_layer_itself() -> None:
    first, second = _tar("ab"), _tar("ba")
    (found,) = compare_layers(side(first), side(second)).files
    assert [change.aspect for change in found.changes] == [Aspect.ORDER]
    assert cause(found) is Cause.ORDERING


def test_a_layer_against_none() -> None:
    empty = Side("", None, LayerLimits())
    found = compare_layers(side(tar_of(file_item("a", b"x"))), empty).files
    assert [(file.path, file.changes[0].second) for file in found] == [("a", "")]


def test_what_is_said_is_bounded() -> None:
    first, second = (
        tuple(file_item(f"f{n:04}", text * 4000) for n in range(MOST_FILES + 30)) for text in (b"a\n", b"b\n")
    )
    found = compare_layers(side(tar_of(*first)), side(tar_of(*second)))
    assert (len(found.files), found.more) == (MOST_FILES, 30)
    assert max(len(file.diff) for file in found.files) < 30


def test_a_content_with_a_secret_is_not_shown() -> None:
    first, second = ((file_item("f", b"token=hunter22 " + end),) for end in (b"1", b"2"))
    (found,) = compare(first, second, (b"hunter22",))
    assert found.diff == ()
    (shown,) = compare(first, second)
    assert shown.diff


def test_a_layer_is_unpacked_as_plain_files_only(tmp_path: Path) -> None:
    layer = side(
        tar_of(
            file_item("bin/su", b"x", 0o4755),
            Item(Entry("dev/null", EntryType.CHARACTER, 0o666, device=(1, 3))),
            Item(Entry("etc", EntryType.SYMLINK, 0o777, link="/etc")),
        )
    )
    unpack(layer, tmp_path / "out", Secrets())
    assert (tmp_path / "out/bin/su").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "out/dev/null").read_text() == "character 1:3\n"
    assert not (tmp_path / "out/etc").is_symlink()
    assert (tmp_path / "out/etc").read_text() == "symlink /etc\n"


def test_a_file_with_a_secret_is_not_unpacked(tmp_path: Path) -> None:
    layer = side(tar_of(file_item("a", b"x" * 3_000_000 + b"hunter22" + b"y"), file_item("b-hunter22", b"b")))
    unpack(layer, tmp_path / "out", Secrets((("s", b"hunter22"),)))
    assert (tmp_path / "out/a").read_text() == "a secret of the build is in this file\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b-***"]
