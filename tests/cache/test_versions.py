"""Stores of other versions of mbuild."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cache.index import Kind
from cache.store import Store
from cache.versions import VERSION, settle
from cache.workspace import Workspace
from machinefile.errors import StoreError


def made(root: Path, version: str) -> Path:
    """A store that holds something, as that version made it."""
    with Store(root) as store:
        store.blobs.put(b"old")
        store.index.put(Kind.RECORD, "k", 1)
    (root / "version").write_text(version)
    return root


def test_an_older_store_is_set_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    made(tmp_path, "0")
    with Store(tmp_path) as store:
        assert store.set_aside == tmp_path / "aside.0"
        assert list(store.index.keys(Kind.RECORD)) == []
        assert [path.read_bytes() for path in (store.set_aside / "blobs/sha256").iterdir()] == [b"old"]
    assert (tmp_path / "version").read_text() == str(VERSION)
    with Store(tmp_path) as store:
        assert store.set_aside is None


def test_setting_aside_that_was_cut_off_is_brought_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "0")
    before = {path.name for path in tmp_path.iterdir()} - {"locks", "tmp", "version"}
    real = Path.rename
    moved: list[Path] = []

    def rename(self: Path, target: Path) -> Path:
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(self)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path)
    monkeypatch.undo()
    with Store(tmp_path) as store:
        assert store.set_aside is not None
        assert {path.name for path in store.set_aside.iterdir()} == before


def test_an_older_store_is_brought_up_step_by_step(tmp_path: Path) -> None:
    made(tmp_path, "1")
    done: list[int] = []

    def migrate(number: int) -> None:
        assert (tmp_path / "version").read_text() == str(number)
        done.append(number)

    steps = {1: lambda root: migrate(1), 2: lambda root: migrate(2)}
    assert settle(tmp_path, 3, steps) is None
    assert done == [1, 2]
    assert (tmp_path / "version").read_text() == "3"
    (tmp_path / "version").write_text("1")
    assert settle(tmp_path, 3, {2: steps[2]}) == tmp_path / "aside.1", "there is no way from 1"


def test_a_migration_that_failed_is_begun_again(tmp_path: Path) -> None:
    made(tmp_path, "1")
    calls: list[str] = []

    def first(root: Path) -> None:
        calls.append("first")

    def second(root: Path) -> None:
        calls.append("second")
        if calls.count("second") == 1:
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError) as caught:
        settle(tmp_path, 3, {1: first, 2: second})
    assert caught.value.code == "store-full"
    settle(tmp_path, 3, {1: first, 2: second})
    assert calls == ["first", "second", "second"]


def test_of_two_processes_one_brings_a_store_up(tmp_path: Path) -> None:
    made(tmp_path, "1")
    calls: list[int] = []
    both = threading.Barrier(2)

    def work() -> None:
        both.wait(10)
        settle(tmp_path, 2, {1: lambda root: calls.append(1)})

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert calls == [1]


def test_an_older_store_that_somebody_uses_is_not_touched(tmp_path: Path) -> None:
    made(tmp_path, "0")
    running = Workspace(tmp_path / "tmp")
    try:
        with pytest.raises(StoreError) as caught:
            Store(tmp_path)
        assert caught.value.code == "store-in-use"
    finally:
        running.close()
    with Store(tmp_path) as store:
        assert store.set_aside is not None


@pytest.mark.parametrize("version", ["99", "", "one", "-1", "9" * 40, "¹"])
def test_a_newer_store_and_one_that_makes_no_sense_are_refused(tmp_path: Path, version: str) -> None:
    made(tmp_path, version)
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert caught.value.code == "store-version"
    assert "--cache-dir" in caught.value.hint
    assert (tmp_path / "version").read_text() == version
    assert not list(tmp_path.glob("aside.*"))
