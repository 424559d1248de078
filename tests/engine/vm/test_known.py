"""What is remembered of files, for as long as they are as they were."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.vm.known import known


class Asked:
    """Finds out what a file holds, and counts how often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        return self.path.read_text()


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    path = tmp_path / "program"
    path.write_text("7.2")
    return Asked(path)


def test_it_is_found_out_once(asked: Asked, tmp_path: Path) -> None:
    assert [known(tmp_path, "x", [asked.path], asked) for _ in range(3)] == ["7.2"] * 3
    assert asked.times == 1
    assert known(tmp_path, "y", [asked.path], asked) == "7.2"
    assert known(tmp_path, "x", [asked.path], asked) == "7.2"
    assert asked.times == 2
    assert not list(tmp_path.glob(".known*"))


def test_a_file_that_was_changed_is_looked_at_anew(asked: Asked, tmp_path: Path) -> None:
    known(tmp_path, "x", [asked.path], asked)
    before = asked.path.stat()
    asked.path.write_text("7.3")  # as long as before
    os.utime(asked.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known(tmp_path, "x", [asked.path], asked) == "7.3"
    other = tmp_path / "other"
    other.write_text("8.0")
    other.replace(asked.path)
    assert known(tmp_path, "x", [asked.path], asked) == "8.0"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"x": 1}'),
        *(b'{"x": {"stamp": 1, "value": 2}}', b'{"x": {"stamp": []}}'),
    ],
    ids=[str(number) for number in range(9)],
)
def test_a_damaged_memory_is_none(asked: Asked, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "known.json").write_bytes(content)
    assert known(tmp_path, "x", [asked.path], asked) == "7.2"
    assert known(tmp_path, "x", [asked.path], asked) == "7.2"
    assert asked.times == 1


@pytest.mark.parametrize("value", [None, 5, "", "x" * 201], ids=str)
def test_a_value_that_cannot_be_is_not_taken(asked: Asked, tmp_path: Path, value: object) -> None:
    known(tmp_path, "x", [asked.path], asked)
    written = json.loads((tmp_path / "known.json").read_text())
    written["x"]["value"] = value
    (tmp_path / "known.json").write_text(json.dumps(written))
    assert known(tmp_path, "x", [asked.path], asked) == "7.2"
    assert asked.times == 2


def test_where_nothing_can_be_written_it_is_found_out_each_time(asked: Asked, tmp_path: Path) -> None:
    nowhere = tmp_path / "program" / "below a file"
    assert [known(nowhere, "x", [asked.path], asked) for _ in range(2)] == ["7.2"] * 2
    assert asked.times == 2
