"""Keeping the store small after a build: what it costs, what it says, and that it comes to something."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cache.collection.schedule import VARIABLE
from cache.collection.sizes import DiskUsage
from cache.store import Store
from engine.collection import prune as pruning
from mbuild import tidying
from mbuild.tidying import tidy

DAYS = 3 * 86_400
COUNT = 12


def blobs(root: Path) -> int:
    return len(list((root / "blobs/sha256").iterdir()))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with blobs that nothing used for long, larger than it may be."""
    monkeypatch.setenv(VARIABLE, "1M")
    with Store(tmp_path / "store") as store:
        for number in range(COUNT):
            path = store.blobs.path(store.blobs.put(bytes([number]) * (256 << 10)))
            past = time.time() - DAYS
            for file in (path, store.root / "used" / store.uses.name(path)):
                if file.exists():
                    os.utime(file, (past, past))
    return tmp_path / "store"


def test_a_store_that_has_outgrown_its_limit_is_cleaned(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tidy(str(root), threading.Event(), quiet=False)
    assert 0 < blobs(root) < 4
    said = capsys.readouterr().err
    assert "removed" in said
    assert "there is more" not in said


def test_a_store_that_is_small_enough_is_not_looked_through(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1G")
    monkeypatch.setattr(tidying, "prune", lambda *_, **__: pytest.fail("it is small"))
    tidy(str(root), threading.Event(), quiet=False)


def test_what_could_not_be_found_out_in_time_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tidying, "_LONGEST", -1.0)
    tidy(str(root), threading.Event(), quiet=True)
    assert "mbuild cache prune --keep-storage" in capsys.readouterr().err
    assert blobs(root) == COUNT


def test_it_says_nothing_to_whoever_stopped_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cancelled = threading.Event()
    cancelled.set()
    tidy(str(root), cancelled, quiet=False)
    assert capsys.readouterr().err == ""


def test_what_goes_before_time_is_up_is_gone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tidying.prune
    monkeypatch.setattr(pruning, "_BATCH", 2)
    monkeypatch.setattr(tidying, "prune", lambda *them, **named: real(*them, **{**named, "enough": 0.0}))
    tidy(str(root), threading.Event(), quiet=False)
    assert blobs(root) == COUNT - 2
    assert "there is more" in capsys.readouterr().err


def test_more_than_a_limit_is_seen_in_all_parts_of_a_store(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    (elsewhere / "in").mkdir(parents=True)
    (elsewhere / "in" / "file").write_bytes(b"x" * (1 << 20))
    folder.mkdir()
    later = time.monotonic() + 60
    assert not DiskUsage().exceeds(folder, 1 << 19, later)
    assert not DiskUsage().exceeds(tmp_path / "none", 1 << 19, later)
    assert DiskUsage().exceeds(folder, 1 << 19, time.monotonic() - 1), "nobody knows"
    (folder / "vm").symlink_to(elsewhere)
    assert DiskUsage().exceeds(folder, 1 << 19, later)
    assert not DiskUsage().exceeds(folder, 2 << 20, later)
