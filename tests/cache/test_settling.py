"""What is in use before it is flushed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cache.files import file_digest
from cache.seals import Seals
from cache.store import Store


class Drive:
    """Flushes when it is let go on, and remembers what it flushed."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.flushed: set[int] = set()
        self.fails = False

    def fsync(self, descriptor: int) -> None:
        self.begun.set()
        assert self.go.wait(20)
        if self.fails:
            raise OSError(5, "it fails")
        self.flushed.add(os.fstat(descriptor).st_ino)


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[Drive]:
    """After the store was opened."""
    made = Drive()
    monkeypatch.setattr(os, "fsync", made.fsync)
    yield made
    made.go.set()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def disk(store: Store) -> Path:
    path = store.root / "disks" / "one"
    path.write_bytes(b"content")
    return path


def after_a_crash(store: Store, monkeypatch: pytest.MonkeyPatch, path: Path) -> bool:
    """Whether its seal would still hold."""
    with monkeypatch.context() as patch:
        patch.setattr("cache.seals.boot", lambda: "another")
        return Seals(store.root, store.index).holds(path)


def test_a_file_is_used_at_once_and_sealed_for_good_when_it_lasts(
    store: Store, disk: Path, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.settling.begin(disk)
    assert store.seals.holds(disk)
    assert Seals(store.root, store.index).holds(disk), "by others too"
    assert not after_a_crash(store, monkeypatch, disk)
    drive.go.set()
    store.settling.close()
    assert drive.flushed == {disk.stat().st_ino, disk.parent.stat().st_ino}
    assert after_a_crash(store, monkeypatch, disk)
    assert Seals(store.root, store.index).digest(disk) == file_digest(disk)


def test_nothing_is_flushed_twice_but_what_is_new(store: Store, disk: Path, drive: Drive) -> None:
    drive.go.set()
    store.settling.begin(disk)
    store.settling.begin(disk)
    store.settling.close()
    drive.flushed.clear()
    store.settling.begin(disk)
    store.settling.close()
    assert drive.flushed == set()
    disk.unlink()
    disk.write_bytes(b"other")
    store.settling.begin(disk)
    store.settling.close()
    assert disk.stat().st_ino in drive.flushed


def touched(disk: Path, drive: Drive) -> None:
    disk.write_bytes(b"c0ntent")
    os.utime(disk, ns=(1, 1))  # the clock of files may stand for some milliseconds


def replaced(disk: Path, drive: Drive) -> None:
    other = disk.with_name("other")
    other.write_bytes(b"content")
    other.replace(disk)


def removed(disk: Path, drive: Drive) -> None:
    disk.unlink()


def failing(disk: Path, drive: Drive) -> None:
    drive.fails = True


@pytest.mark.parametrize("harm", [touched, replaced, removed, failing])
def test_what_is_touched_or_fails_meanwhile_gets_no_seal(
    store: Store,
    disk: Path,
    drive: Drive,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path, Drive], None],
) -> None:
    store.settling.begin(disk)
    assert drive.begun.wait(20)
    harm(disk, drive)
    drive.go.set()
    store.settling.close()
    assert not after_a_crash(store, monkeypatch, disk)
    assert not store.seals.holds(disk)


def test_a_store_is_closed_when_all_of_it_lasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "store") as store:
        disks = [store.root / "disks" / str(number) for number in range(20)]
        for disk in disks:
            disk.write_bytes(b"content")
            store.settling.begin(disk)
    with Store(tmp_path / "store") as store:
        assert all(after_a_crash(store, monkeypatch, disk) for disk in disks)


def test_who_leaves_with_an_error_waits_for_one_file_only(
    store: Store, drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shutdown(executor: ThreadPoolExecutor, *, cancel_futures: bool) -> None:
        really(executor, wait=False, cancel_futures=cancel_futures)
        drive.go.set()
        really(executor)

    really = ThreadPoolExecutor.shutdown
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
    disks = [store.root / "disks" / str(number) for number in range(5)]
    for disk in disks:
        disk.write_bytes(b"content")
        store.settling.begin(disk)
    assert drive.begun.wait(20)
    store.__exit__(KeyboardInterrupt)
    assert {disk.stat().st_ino for disk in disks} & drive.flushed == {disks[0].stat().st_ino}
