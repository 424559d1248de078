"""Seals: which files need not be read again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.index import Index, Kind
from cache.seals import Seals, boot


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path / "index")
    yield made
    made.close()


def _written(path: Path) -> None:
    path.write_bytes(b"c0ntent")
    os.utime(path, ns=(1, 1))


def _replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"c0ntent")
    other.replace(path)


def _linked(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


@pytest.mark.parametrize("touch", [_written, _replaced, _linked, Path.unlink], ids=lambda touch: touch.__name__)
def test_a_seal_holds_until_its_file_is_touched(index: Index, tmp_path: Path, touch: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    assert not Seals(tmp_path, index).holds(path)
    Seals(tmp_path, index).put(path, "sha256:x")
    another = Seals(tmp_path, index)
    assert another.holds(path)
    assert another.holds(path), "also from memory"
    assert another.digest(path) == "sha256:x"
    touch(path)
    assert not another.holds(path)
    assert not Seals(tmp_path, index).holds(path)


def test_a_seal_of_what_does_not_last_yet_holds_until_the_machine_goes_down(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    mine = Seals(tmp_path, index)
    mine.put(path, "sha256:x", lasts=False)
    with monkeypatch.context() as patch:
        patch.setattr("cache.seals.boot", lambda: "another")
        assert not Seals(tmp_path, index).holds(path)
        assert Seals(tmp_path, index).digest(path) == "sha256:x", "so that it can be compared"
    assert Seals(tmp_path, index).holds(path)
    mine.put(path, "sha256:x")
    monkeypatch.setattr("cache.seals.boot", lambda: "another")
    assert Seals(tmp_path, index).holds(path)


def test_a_boot_is_the_same_for_all_processes() -> None:
    program = "from cache.seals import boot; print(boot())"
    said = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(2)}
    assert said == {f"{boot()}\n".encode()}


def test_a_seal_that_is_dropped_or_cannot_be_read_does_not_hold(index: Index, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    seals = Seals(tmp_path, index)
    seals.put(path)
    seals.drop(path)
    assert not seals.holds(path)
    index.put(Kind.SEAL, "file", ["what", "is", "this"])
    assert not seals.holds(path)
    assert seals.digest(path) == ""
