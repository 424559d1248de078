"""Names of one file: a copy keeps them, and a key tells them from two files that are alike."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from engine.layers.entry import Entry, EntryType

if TYPE_CHECKING:
    from conftest import Workshop


@pytest.fixture
def linked(workshop: Workshop) -> Workshop:
    """A context with two names of one file in one folder, and a third in another."""
    workshop.write("d/a", "same")
    workshop.write("e/other", "other")
    os.link(workshop.context / "d/a", workshop.context / "d/b")
    os.link(workshop.context / "d/a", workshop.context / "e/c")
    return workshop


def made(workshop: Workshop, instruction: str) -> dict[str, Entry]:
    layer = workshop.layers(workshop.build(f"FROM base\n{instruction}\n").digest)[-1]
    return {path: entry for path, (entry, _) in layer.items() if entry.type is not EntryType.DIRECTORY}


def links(entries: dict[str, Entry]) -> dict[str, str]:
    return {path: entry.link for path, entry in entries.items() if entry.type is EntryType.HARDLINK}


def test_names_of_one_file_in_a_folder_stay_one_file(linked: Workshop) -> None:
    assert links(made(linked, "COPY . /x/")) == {"x/d/b": "x/d/a", "x/e/c": "x/d/a"}


def test_what_different_sources_bring_is_not_linked(linked: Workshop) -> None:
    assert links(made(linked, "COPY d/a d/b /x/")) == {}
    assert links(made(linked, "COPY d e /y/")) == {"y/b": "y/a"}


def test_a_name_that_is_left_out_leaves_an_ordinary_file(linked: Workshop) -> None:
    entries = made(linked, "COPY --exclude=a d /x/")
    assert entries["x/b"].type is EntryType.FILE
    assert set(entries) == {"x/b"}


def test_owner_and_mode_of_the_copy_are_those_of_all_names(linked: Workshop) -> None:
    entries = made(linked, "COPY --chown=ada --chmod=600 d /x/")
    assert {(entry.uid, entry.gid, entry.mode) for entry in entries.values()} == {(1000, 1001, 0o600)}
    assert links(entries) == {"x/b": "x/a"}


def test_a_link_that_was_broken_is_another_key(linked: Workshop) -> None:
    def key() -> str:
        return linked.plan("FROM base\nCOPY d /x/\n").steps[-1].key

    before = key()
    (linked.context / "d/b").unlink()
    linked.write("d/b", "same")
    assert key() != before


def test_an_archive_s_links_stay_links(workshop: Workshop) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, link in (("f", tarfile.REGTYPE, ""), ("a", tarfile.LNKTYPE, "f"), ("g", tarfile.REGTYPE, "")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info, io.BytesIO())
    (workshop.context / "a.tar").write_bytes(out.getvalue())
    assert links(made(workshop, "ADD a.tar /x/")) == {"x/f": "x/a"}
