"""What is noted of uses, what files take up, when the store is cleaned by itself, and locks whose files go."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import cache.locks
from cache.collection.schedule import allowance, is_due
from cache.collection.sizes import DiskUsage
from cache.collection.sweep import empty, take_away
from cache.gate import Gate, try_lock
from cache.index import Kind
from cache.locks import locked, remove_free_locks
from cache.store import Store
from cache.workspace import Workspace
from machinefile.errors import InterruptedBuildError, StoreError, UsageError


def test_a_use_is_noted_once_a_process_and_only_of_what_is_there(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        digest = store.blobs.put(b"x")
        path = store.blobs.path(digest)
        missing = path.with_name("0" * 64)
        assert not store.blobs.has("sha256:" + missing.name)
        assert store.uses.times() == {}
        assert store.blobs.has(digest, 1)
        assert not store.blobs.has(digest, 2)
        name = store.uses.name(path)
        mark = tmp_path / "used" / name
        os.utime(mark, (1, 1))
        store.blobs.has(digest)
        assert store.uses.times() == {name: 1.0}
        before = path.stat()
    with Store(tmp_path) as store:
        assert store.blobs.has(digest)
        assert time.time() - store.uses.times()[name] < 100
    assert path.stat() == before, "whether a blob was touched is how damage is found"


def test_what_is_gone_is_gone_though_its_use_was_noted(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        digest = store.blobs.put(b"x")
        assert store.blobs.has(digest)
        store.blobs.drop(digest)
        assert not store.blobs.has(digest)


def test_the_gate_is_one_for_many_or_for_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.gate._PATIENCE", 0.05)
    gate = Gate(tmp_path / "gate")
    with gate.shared(), Gate(tmp_path / "gate").shared(), pytest.raises(StoreError) as caught, gate.alone():
        pytest.fail("two share it")
    assert caught.value.code == "store-busy"
    cancelled = threading.Event()
    cancelled.set()
    with gate.alone():
        with pytest.raises(StoreError), gate.shared():
            pytest.fail("one has it alone")
        with pytest.raises(InterruptedBuildError), gate.alone(cancelled):
            pytest.fail("one has it alone")
    with gate.shared():
        pass


def test_a_process_sees_when_the_oldest_of_the_others_began(tmp_path: Path) -> None:
    first = Workspace(tmp_path)
    assert first.others_began() is None
    second, third = Workspace(tmp_path), Workspace(tmp_path)
    os.utime(second.path / "lock", (50, 50))
    os.utime(first.path / "lock", (10, 10))
    assert first.others_began() == 50
    assert third.others_began() == 10
    written = first.path / "written"
    written.touch()
    assert first.now() > written.stat().st_mtime
    assert first.now() >= (third.path / "lock").stat().st_mtime
    first.close()
    assert third.others_began() == 50
    second.close()
    third.close()


def test_what_was_just_written_is_older_than_now_also_for_who_had_to_wait_for_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    moments = itertools.count(step=100)  # each look at the clock comes after all patience
    halting = SimpleNamespace(monotonic=lambda: float(next(moments)), sleep=lambda _: time.sleep(0.03))
    monkeypatch.setattr("cache.workspace.time", halting)
    written = tmp_path / "written"
    written.touch()
    assert workspace.now() > written.stat().st_mtime
    workspace.close()


def test_a_process_that_ends_while_it_is_looked_at_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Workspace(tmp_path), Workspace(tmp_path)
    real = fcntl.flock
    held: list[int] = []

    def flock(descriptor: int, kind: int) -> None:
        try:
            real(descriptor, kind)
        except BlockingIOError:
            held.append(descriptor)
            shutil.rmtree(second.path)
            raise

    monkeypatch.setattr("fcntl.flock", flock)
    assert first.others_began() is None
    assert held
    first.close()
    second.close()


def test_nobody_waits_for_ever_to_begin_nor_while_the_leavings_of_the_dead_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / "dead"
    dead.mkdir()
    monkeypatch.setattr("cache.gate._PATIENCE", 0.05)
    free: list[bool] = []
    real = shutil.rmtree

    def rmtree(path: Path, ignore_errors: bool = False) -> None:
        with (tmp_path / ".sweep").open("rb") as gate:
            free.append(try_lock(gate.fileno(), fcntl.LOCK_EX))
        real(path, ignore_errors=ignore_errors)

    monkeypatch.setattr("shutil.rmtree", rmtree)
    Workspace(tmp_path).close()
    assert not dead.exists()
    assert free
    assert all(free)
    with (tmp_path / ".sweep").open("rb") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        with pytest.raises(StoreError) as caught:
            Workspace(tmp_path)
    assert caught.value.code == "store-busy"


def test_files_take_what_they_take_on_the_disk(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        file.write(b"x" * 10_000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "one").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "folder" / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to("/")
    usage = DiskUsage()
    found = {one.path.name: one for one in usage.children(tmp_path)}
    assert 10_000 <= found["sparse"].size < 1 << 20
    assert found["folder"].size >= 100_000
    assert found["two"].size == 0, "it was counted by its other name"
    assert found["link"].size < 10_000
    assert usage.of(tmp_path / "none") is None
    assert list(usage.children(tmp_path / "none")) == []
    assert found["folder"].written >= (tmp_path / "folder" / "one").stat().st_mtime


def test_entries_go_together_and_facts_are_told_oldest_first(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for key in ("b", "a"):
            store.index.put(Kind.RESULT, key, "value " + key)
        store.index.put(Kind.RECORD, "a", 1)
        facts = list(store.index.facts(Kind.RESULT))
        assert [one.key for one in facts] == ["b", "a"]
        assert all(time.time() - one.stored < 100 and one.size > 0 for one in facts)
        store.index.drop_all([(Kind.RESULT, "a"), (Kind.RESULT, "b"), (Kind.RESULT, "none")])
        store.index.drop_all([])
        assert list(store.index.keys(Kind.RESULT)) == []
        assert list(store.index.keys(Kind.RECORD)) == ["a"]


def test_entries_are_read_many_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.index._PAGE", 2)
    with Store(tmp_path) as store:
        for count in range(5):
            assert len(list(store.index.entries(Kind.RESULT))) == count
            store.index.put(Kind.RESULT, f"k{count}", count)
        store.index.put(Kind.RECORD, "a", 1)
        store.index._opened().set("result:k3", b"sum of something else")
        found = {facts.key: (value, facts.size > 0) for facts, value in store.index.entries(Kind.RESULT)}
        assert found == {f"k{count}": (None if count == 3 else count, True) for count in range(5)}
        stored = {facts.key: facts.stored for facts in store.index.facts(Kind.RESULT)}
        assert {facts.key: facts.stored for facts, _ in store.index.entries(Kind.RESULT)} == stored
        since = set(store.index.stored_since(stored["k4"]))
        assert {(Kind.RESULT, "k4"), (Kind.RECORD, "a")} <= since
        assert (Kind.RESULT, "k0") not in since
        store.index.drop_all((Kind.RESULT, key) for key in stored)
        assert len(store.index._opened()) == 1, "what diskcache counts is right"


def test_the_trash_takes_folders_and_files_and_what_is_gone_already(tmp_path: Path) -> None:
    from cache.collection.item import Item, Sort

    with Store(tmp_path) as store:
        digest = store.blobs.put(b"x")
        folder = tmp_path / "machines" / "key"
        folder.mkdir(parents=True)
        (folder / "ram").write_bytes(b"x")
        store.index.put(Kind.RESULT, "k", 1)
        paths = (store.blobs.path(digest), folder, tmp_path / "none")
        trash = store.folder()
        take_away(store, [Item(Sort.BLOB, "b", paths=paths)], [(Kind.RESULT, "k")], trash)
        assert not any(path.exists() for path in paths)
        assert store.index.get(Kind.RESULT, "k") is None
        empty(trash)
        assert not trash.exists()


def test_the_file_of_a_free_lock_goes_and_that_of_a_held_one_stays(tmp_path: Path) -> None:
    with locked(tmp_path, "held"):
        with locked(tmp_path, "free"):
            pass
        assert remove_free_locks(tmp_path) == 1
        assert len(list(tmp_path.iterdir())) == 1
    assert remove_free_locks(tmp_path) == 1


def test_who_gets_a_lock_whose_file_was_removed_takes_that_of_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two would hold the lock of one name."""
    real = fcntl.flock
    removed: list[int] = []

    def flock(descriptor: int, kind: int) -> None:
        if not removed:
            removed.append(descriptor)
            for path in tmp_path.iterdir():
                path.unlink()
        real(descriptor, kind)

    monkeypatch.setattr(cache.locks.fcntl, "flock", flock)
    cancelled = threading.Event()
    cancelled.set()
    with (
        locked(tmp_path, "name"),
        pytest.raises(InterruptedBuildError),
        locked(tmp_path, "name", cancelled=cancelled),
    ):
        pytest.fail("two hold it")
    assert removed


def test_it_is_time_to_clean_once_in_a_while(tmp_path: Path) -> None:
    assert not is_due(tmp_path), "a new store"
    assert not is_due(tmp_path)
    stamp = tmp_path / "collected"
    past = time.time() - 86_400
    os.utime(stamp, (past, past))
    assert is_due(tmp_path)
    assert not is_due(tmp_path)
    os.utime(stamp, (past + 1e6, past + 1e6))
    assert is_due(tmp_path), "a clock was wrong"
    assert not is_due(tmp_path / "none")


def test_how_much_may_stay_is_a_share_of_the_disk_or_what_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MBUILD_KEEP_STORAGE", raising=False)
    usual = allowance(tmp_path)
    assert usual is not None
    assert usual >= 10 << 30
    monkeypatch.setenv("MBUILD_KEEP_STORAGE", "5G")
    assert allowance(tmp_path) == 5 << 30
    monkeypatch.setenv("MBUILD_KEEP_STORAGE", "0")
    assert allowance(tmp_path) is None
    monkeypatch.setenv("MBUILD_KEEP_STORAGE", "much")
    with pytest.raises(UsageError):
        allowance(tmp_path)
