"""`mbuild cache check` as it is called."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from cache.store import Store
from machinefile.errors import InterruptedBuildError
from mbuild.commands.cachecheck import main


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with Store(tmp_path / "store") as store:
        store.blobs.put(b"right")
    return tmp_path / "store"


def harm(store: Path) -> Path:
    (path,) = (store / "blobs" / "sha256").iterdir()
    path.write_bytes(b"wrong")
    os.utime(path, ns=(1, 1))
    return path


def check(store: Path, *options: str) -> int:
    return main(["--cache-dir", str(store), *options], threading.Event())


@pytest.mark.parametrize("fast", [(), ("--fast",)], ids=["whole", "fast"])
def test_damage_is_shown_and_mended_and_gone(
    store: Path, capsys: pytest.CaptureFixture[str], fast: tuple[str, ...]
) -> None:
    assert check(store, *fast) == 0
    assert capsys.readouterr().out.startswith("nothing is wrong: 1 blobs")
    path = harm(store)
    assert check(store, *fast) == 3
    shown = capsys.readouterr().out
    assert f"DAMAGE  blob-corrupt         blobs/sha256/{path.name}: " in shown
    assert "--repair" in shown
    assert path.exists()
    assert check(store, "--repair", *fast) == 0
    assert capsys.readouterr().out.startswith("mended")
    assert not path.exists()
    assert check(store, *fast) == 0


def test_it_is_told_as_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = harm(store)
    assert check(store, "--format", "json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["damaged"] is True
    assert told["checked"]["blobs"] == 1
    assert told["found"] == [
        {
            "kind": "blob-corrupt",
            "damage": True,
            "subject": f"blobs/sha256/{path.name}",
            "message": "its content is not what its digest says",
            "repaired": False,
            "hindrance": "",
        }
    ]


def test_what_is_no_damage_is_a_note(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (store / "notes\x1b.txt").write_text("mine")
    assert check(store) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("note    unknown ")
    assert "\x1b" not in shown


def test_it_can_be_stopped(store: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedBuildError):
        main(["--cache-dir", str(store)], stop)
