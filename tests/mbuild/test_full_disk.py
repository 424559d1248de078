"""Cleaning a store on a disk that is full."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from cache.names import NamedImage
from cache.store import Store
from machinefile.errors import StoreError
from mbuild.commands import cachecheck, cachedu, cacheprune, rmi
from mbuild.session import open_store

COMMANDS = {
    "du": (cachedu.main, ()),
    "prune": (cacheprune.main, ("--all",)),
    "check": (cachecheck.main, ()),
    "rmi": (rmi.main, ("app",)),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with an image."""
    with open_store(str(tmp_path / "store")) as store:
        digest = store.blobs.put(b"{}")
        store.names.put(NamedImage("docker.io/library/app:latest", digest, 2, "x", "2020"))
    return tmp_path / "store"


def fill(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing can be made as long as the reserve is held."""
    real = os.mkdir

    def mkdir(path: str, *arguments: object, **options: object) -> None:
        if (root / "reserve").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("os.mkdir", mkdir)


def test_a_store_holds_room_on_the_disk_for_its_cleaning(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = root / "reserve"
    status = reserve.stat()
    assert status.st_blocks * 512 >= status.st_size == 4 << 20
    reserve.unlink()
    monkeypatch.setattr("cache.reserve.free_bytes", lambda folder: 10 << 20)
    open_store(str(root)).__exit__()
    assert not reserve.exists(), "others need it more"
    with reserve.open("wb") as file:
        file.truncate(1 << 20)
    monkeypatch.undo()
    open_store(str(root)).__exit__()
    assert reserve.stat().st_size == 4 << 20, "what was left is made whole"


@pytest.mark.parametrize("name", COMMANDS)
def test_on_a_full_disk_the_room_is_given_back_to_clean_up_and_taken_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fill(root, monkeypatch)
    with pytest.raises(StoreError) as caught:
        open_store(str(root))
    assert caught.value.code == "store-full"
    assert "mbuild cache prune" in caught.value.hint
    main, arguments = COMMANDS[name]
    main(["--cache-dir", str(root), *arguments], threading.Event())
    assert (root / "reserve").stat().st_size == 4 << 20


def test_as_much_of_the_room_is_taken_again_as_there_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.posix_fallocate

    def allocate(descriptor: int, offset: int, length: int) -> None:
        if length > 1 << 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, offset, length)

    monkeypatch.setattr("os.posix_fallocate", allocate)
    assert cachedu.main(["--cache-dir", str(root)], threading.Event()) == 0
    assert (root / "reserve").stat().st_size == 1 << 20


@pytest.mark.parametrize(
    ("options", "goes"),
    [((), True), (("--all",), True), (("--dry-run",), False), (("--filter", "type=layer"), False)],
    ids=["plain", "all", "dry", "filtered"],
)
def test_without_that_room_what_may_go_at_any_time_goes_first(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], *, goes: bool
) -> None:
    (root / "reserve").unlink()
    for name in ("contexts", "index.damaged.1", "aside.0"):
        (root / name).mkdir()
        (root / name / "file").write_text("x")
    left: list[set[str]] = []

    class Looked(Store):
        def __init__(self, folder: Path) -> None:
            left.append({path.parent.name for path in folder.glob("*/file")})
            super().__init__(folder)

    monkeypatch.setattr("cache.reserve.free_bytes", lambda folder: 0)
    monkeypatch.setattr("mbuild.session.Store", Looked)
    assert cacheprune.main(["--cache-dir", str(root), *options], threading.Event()) == 0
    assert left == [set() if goes else {"aside.0"}]
