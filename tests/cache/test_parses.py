"""The memory of how a Machinefile parses, in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cache import parses
from cache.parses import KnownParses
from machinefile.syntax import Memory
from machinefile.trees import Part, Tree

TREE = Tree("words", [Part("WORD", "abc", 0)])


def saved(folder: Path, machinefile: Path) -> Path:
    memory = Memory()
    memory.put("machinefile", "words", "abc", TREE)
    KnownParses(folder / "contexts", machinefile, memory).save(folder)
    (path,) = (folder / "contexts").iterdir()
    return path


def known(folder: Path, machinefile: Path) -> bool:
    memory = Memory()
    KnownParses(folder / "contexts", machinefile, memory).load()
    return memory.get("machinefile", "words", "abc") is not None


def test_it_is_known_again_of_the_same_file_only(tmp_path: Path) -> None:
    assert not known(tmp_path, tmp_path / "a")
    saved(tmp_path, tmp_path / "a")
    assert known(tmp_path, tmp_path / "a")
    assert not known(tmp_path, tmp_path / "b")


def test_what_was_known_already_is_not_written(tmp_path: Path) -> None:
    path = saved(tmp_path, tmp_path / "a")
    memory = Memory()
    again = KnownParses(tmp_path / "contexts", tmp_path / "a", memory)
    again.load()
    assert memory.get("machinefile", "words", "abc") is not None
    path.unlink()
    again.save(tmp_path)
    assert not path.exists()


def test_another_parser_or_grammar_knows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, tmp_path / "a")
    changed = tmp_path / "words.lark"
    changed.write_text("words: /x/")
    monkeypatch.setattr(parses, "grammar_paths", lambda: (changed,))
    assert not known(tmp_path, tmp_path / "a")


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _flipped(data: bytes) -> bytes:
    return data.replace(b"abc", b"abd")


def _nested(data: bytes) -> bytes:
    body = b"[" * 100_000
    return data[:16] + hashlib.sha256(body).digest() + body


def _text(data: bytes) -> bytes:
    body = b"\xff"
    return data[:16] + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize("harm", [_cut, _flipped, _nested, _text], ids=lambda harm: harm.__name__)
def test_a_damaged_one_knows_nothing(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = saved(tmp_path, tmp_path / "a")
    path.write_bytes(harm(path.read_bytes()))
    assert not known(tmp_path, tmp_path / "a")
