"""The build context: what COPY may see of the host."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from engine.context import Context
from engine.layers.entry import EntryType
from machinefile.errors import MachinefileError, UsageError
from machinefile.ignore import IgnoreRules


def context(root: Path, ignore: str = "") -> Context:
    return Context(root, IgnoreRules.parse(ignore))


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def test_files_directories_and_links_are_seen_with_their_modes(tmp_path: Path) -> None:
    write(tmp_path, "d/f")
    (tmp_path / "d/f").chmod(0o754)
    (tmp_path / "l").symlink_to("d/f")
    seen = context(tmp_path)
    assert seen.children("") == ("d", "l")
    entry = seen.entry("d/f")
    assert entry is not None
    assert (entry.type, entry.mode, entry.size, entry.uid) == (EntryType.FILE, 0o754, 3, 0)
    link = seen.entry("l")
    assert link is not None
    assert (link.type, link.link) == (EntryType.SYMLINK, "d/f")
    assert seen.entry("l/f") is None, "links are the copy's to follow"
    assert seen.entry("none") is None
    with seen.open("d/f") as file:
        assert file.read() == b"d/f"


def test_with_gits_modes_only_the_owners_right_to_execute_counts(tmp_path: Path) -> None:
    write(tmp_path, "d/plain", "d/program")
    (tmp_path / "l").symlink_to("d/plain")
    os.mkfifo(tmp_path / "pipe")
    seen = {}
    for plain, program, folder in ((0o600, 0o700, 0o700), (0o666, 0o777, 0o2777), (0o4655, 0o4745, 0o1755)):
        (tmp_path / "d/plain").chmod(plain)
        (tmp_path / "d/program").chmod(program)
        (tmp_path / "pipe").chmod(plain)
        (tmp_path / "d").chmod(folder)
        found = Context(tmp_path, IgnoreRules.parse(""), git_modes=True)
        for path in ("d", "d/plain", "d/program", "l", "pipe"):
            entry = found.entry(path)
            assert entry is not None
            seen.setdefault(path, set()).add(entry.mode)
    assert seen == {"d": {0o755}, "d/plain": {0o644}, "d/program": {0o755}, "l": {0o777}, "pipe": {0o644}}


def test_ignored_files_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, "keep", "drop.log", "node_modules/x/y", "build/out", "build/keep.txt")
    seen = context(tmp_path, "*.log\nnode_modules\nbuild\n!build/keep.txt\n")
    assert seen.children("") == ("build", "keep")
    assert seen.children("build") == ("keep.txt",)
    assert seen.entry("node_modules/x/y") is None
    assert seen.entry("build/out") is None


def test_an_ignored_directory_is_never_read(tmp_path: Path) -> None:
    write(tmp_path, "keep", "secret/x")
    seen = context(tmp_path, "secret")
    (tmp_path / "secret").rename(tmp_path / "secret.moved")
    (tmp_path / "secret").symlink_to("/nonexistent")
    assert "secret" not in seen.children("")


def test_names_that_are_not_unicode_are_files_too(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / name).write_text("x")
    seen = context(tmp_path)
    assert seen.children("") == (name,)
    assert seen.digest(name) == context(tmp_path).digest(name)


def test_sockets_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        os.mkfifo("p")
        seen = context(tmp_path)
        assert seen.children("") == ("p",)


def test_a_file_that_becomes_a_link_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "f")
    seen = context(tmp_path)
    assert seen.entry("f") is not None
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to("/etc/passwd")
    with pytest.raises(MachinefileError) as caught:
        seen.open("f")
    assert caught.value.code == "context-unreadable"


def test_a_file_that_becomes_a_pipe_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path, "f")
    seen = context(tmp_path)
    assert seen.entry("f") is not None
    (tmp_path / "f").unlink()
    os.mkfifo(tmp_path / "f")
    with pytest.raises(MachinefileError) as caught:
        seen.open("f")
    assert caught.value.code == "context-changed"


def test_a_context_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        context(tmp_path / "none")
    assert caught.value.code == "context-missing"
