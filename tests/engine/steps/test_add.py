"""ADD of local archives: unpacked as Docker unpacks them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import zstandard

from engine.layers.entry import Entry, EntryType
from machinefile.errors import MachinefileError

if TYPE_CHECKING:
    from conftest import Workshop


def member(
    name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o640, owner: int = 7, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.linkname = kind, mode, owner, owner, link
    return info


def archive(*members: tarfile.TarInfo, content: bytes = b"inside") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info in members:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def add(workshop: Workshop, data: bytes, text: str = "FROM base\nADD a.tar /x/\n") -> dict[str, tuple[Entry, bytes]]:
    (workshop.context / "a.tar").write_bytes(data)
    return workshop.layers(workshop.build(text).digest)[-1]


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_an_archive_is_unpacked_whatever_compressed_it(workshop: Workshop, compress: Callable[[bytes], bytes]) -> None:
    made = add(workshop, compress(archive(member("d/f"), member("d/l", tarfile.LNKTYPE, link="d/f"))))
    assert made["x/d/f"][1] == b"inside"
    assert (made["x/d/f"][0].uid, made["x/d/f"][0].mode) == (7, 0o640), "owner and mode are the archive's"
    assert made["x/d"][0].mode == 0o755
    assert "x/a.tar" not in made


def test_chown_is_for_what_is_in_the_archive_too(workshop: Workshop) -> None:
    made = add(workshop, archive(member("f")), "FROM base\nADD --chown=ada a.tar /x/\n")
    assert {(entry.uid, entry.gid) for entry, _ in made.values()} == {(1000, 1001)}


def test_copy_never_unpacks(workshop: Workshop) -> None:
    data = archive(member("f"))
    made = add(workshop, data, "FROM base\nCOPY a.tar /x/\n")
    assert made["x/a.tar"][1] == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no archive",
        gzip.compress(b"one file", mtime=0),
        lzma.compress(b"one file"),
        b"\x1f\x8b damaged",
        b"BZh damaged",
        b"\xfd7zXZ\x00 damaged",
        b"\x28\xb5\x2f\xfd damaged",
    ],
)
def test_a_file_that_is_no_archive_is_copied(workshop: Workshop, data: bytes) -> None:
    assert add(workshop, data)["x/a.tar"][1] == data


def test_what_an_entry_meets_is_replaced(workshop: Workshop) -> None:
    text = "FROM base\nCOPY <<f /x/d/f\nold\nf\nADD a.tar /x/\n"
    made = add(workshop, archive(member("d", tarfile.SYMTYPE, link="/etc")), text)
    assert made["x/d"][0].type is EntryType.SYMLINK


def test_a_directory_that_the_archive_only_implies_may_be_a_link_in_the_image(workshop: Workshop) -> None:
    (workshop.context / "links").mkdir()
    (workshop.context / "links" / "lib").symlink_to("/usr/lib")
    text = "FROM base\nCOPY links /x/\nADD a.tar /x/\n"
    made = add(workshop, archive(member("lib/f")), text)
    assert "usr/lib/f" in made


def test_the_archive_s_own_root_says_what_the_destination_is_like(workshop: Workshop) -> None:
    made = add(workshop, archive(member("./", tarfile.DIRTYPE, mode=0o711, owner=5), member("./f")))
    assert (made["x"][0].mode, made["x"][0].uid) == (0o711, 5)


@pytest.mark.parametrize(
    "data",
    [
        archive(member("ok"), member("../out")),
        archive(member("ok"), member("l", tarfile.LNKTYPE, link="/nothing")),
        archive(member("ok"), member("d/.wh.x")),
        archive(member("ok"), content=b"x" * 5000)[:2000],
        gzip.compress(archive(member("ok"), content=bytes(300_000)))[:-200],
        lzma.compress(archive(member("ok"), content=os.urandom(300_000)))[:-200],
        bz2.compress(archive(member("ok"), content=os.urandom(999_000)))[:-200],
        lzma.compress(archive(member("ok")), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]),
    ],
    ids=["climbs", "links to nothing", "whiteout", "cut", "cut gzip", "cut xz", "cut bzip2", "xz of 512 MiB memory"],
)
def test_an_archive_that_is_damaged_or_hostile_is_refused(workshop: Workshop, data: bytes) -> None:
    with pytest.raises(MachinefileError) as caught:
        add(workshop, data)
    assert caught.value.code == "archive-unusable"
    assert caught.value.span is not None
