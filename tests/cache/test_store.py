"""The store as a whole: results, names, locks, and what a killed process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cache.index import Kind
from cache.keys import Record
from cache.names import NamedImage
from cache.results import Layer, StepResult
from cache.store import Store, default_folder
from machinefile.errors import InterruptedBuildError, StoreError


def layer(store: Store, content: bytes) -> Layer:
    digest = store.blobs.put(content)
    return Layer(digest, digest, len(content), "application/vnd.oci.image.layer.v1.tar")


RECORD = Record("run", (("argv", ("true",)),))


def test_a_result_is_found_by_both_its_keys(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        result = StepResult((None, layer(store, b"tar")), 1.5, 100.0)
        store.keep(RECORD, "content-key", result)
        assert store.result(Kind.RESULT, RECORD.key()) == result
        assert store.result(Kind.CONTENT, "content-key") == result
        assert store.index.get(Kind.RECORD, RECORD.key()) == {
            "version": 1,
            "operation": "run",
            "fields": {"argv": ["true"]},
        }
        assert [found.diff_id for found in result.layers] == [result.steps[1].diff_id]  # type: ignore[union-attr]


def test_a_result_whose_layer_is_gone_or_cut_is_a_miss(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        kept = layer(store, b"tar")
        store.keep(RECORD, "content-key", StepResult((kept,)))
        store.blobs.path(kept.digest).write_bytes(b"t")
        assert store.result(Kind.RESULT, RECORD.key()) is None
        store.blobs.drop(kept.digest)
        assert store.result(Kind.RESULT, RECORD.key()) is None


ODD = (float("inf"), float("nan"), -1, 10**400, True, "1", None)
"""No times, though json.loads gives them."""


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"steps": [["sha256:../x", "sha256:..", 1, ""]], "seconds": 0, "created": 0},
        {"steps": "x", "seconds": 0, "created": 0},
        {"steps": [[1]], "seconds": 0, "created": 0},
        {"steps": [["sha256:" + "0" * 64, "sha256:" + "0" * 64, 10**400, ""]], "seconds": 0, "created": 0},
        *({"steps": [], "seconds": odd, "created": 0} for odd in ODD),
        *({"steps": [], "seconds": 0, "created": odd} for odd in ODD),
    ],
)
def test_a_result_that_makes_no_sense_is_forgotten(tmp_path: Path, value: object) -> None:
    with Store(tmp_path) as store:
        store.index.put(Kind.RESULT, "k", value)
        assert store.result(Kind.RESULT, "k") is None
        assert store.index.get(Kind.RESULT, "k") is None


def test_names_are_kept_moved_and_forgotten(tmp_path: Path) -> None:
    def image(name: str, digit: str) -> NamedImage:
        return NamedImage(name, "sha256:" + digit * 64, 3, "application/vnd.oci.image.manifest.v1+json", "2020")

    with Store(tmp_path) as store:
        store.names.put(image("b", "1"))
        store.names.put(image("a", "1"))
        store.names.put(image("b", "2"))
        assert store.names.all() == (image("a", "1"), image("b", "2"))
        store.names.drop("a")
        assert store.names.get("a") is None
        assert store.names.get("b") == image("b", "2")


def test_a_store_of_another_form_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path):
        pass
    (tmp_path / "version").write_text("99")
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert caught.value.code == "store-version"


def test_a_store_that_cannot_be_a_folder_says_where_to_put_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        Store(tmp_path / "file" / "store")


def test_leaving_the_store_leaves_no_temporary_files(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        (store.folder() / "half").write_text("done")
    assert [path for path in (tmp_path / "tmp").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MBUILD_CACHE_DIR": "/m", "XDG_CACHE_HOME": "/x"}, "/m"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/mbuild"),
        ({"HOME": "/h"}, "/h/.cache/mbuild"),
    ],
)
def test_the_store_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("MBUILD_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_folder() == Path(expected)


HOLDER = """
import sys, time
from pathlib import Path
from cache.store import Store
store = Store(Path(sys.argv[1]))
(store.folder() / "half").write_text("done")
with store.lock("step"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
    return process


def test_a_killed_process_leaves_no_lock_and_the_next_store_sweeps_its_files(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    with Store(tmp_path):
        abandoned = list((tmp_path / "tmp").rglob("half"))
        assert len(abandoned) == 1, "a living process's files stay"
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    with Store(tmp_path) as store, store.lock("step") as waited:
        assert not waited
        assert not abandoned[0].exists()


def test_a_lock_that_is_held_is_waited_for_and_the_wait_can_be_cancelled(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    cancelled = threading.Event()
    told: list[str] = []
    threading.Timer(0.2, cancelled.set).start()
    with (
        Store(tmp_path) as store,
        pytest.raises(InterruptedBuildError),
        store.lock("step", cancelled=cancelled, waiting=lambda: told.append("waiting")),
    ):
        pytest.fail("the lock was free")
    assert told == ["waiting"]
    threading.Timer(0.2, holder.kill).start()
    begun = time.monotonic()
    with Store(tmp_path) as store, store.lock("step") as waited:
        assert waited
    assert time.monotonic() - begun < 30
    holder.wait(10)
