"""Cleaning while other processes build, and cleaning that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cache.collection.sweep
from cache.collection.choose import left_over
from cache.collection.policy import Policy
from cache.index import Index
from cache.store import Store
from engine.collection.prune import prune
from engine.collection.survey import survey
from engine.imagestore import manifests_of

if TYPE_CHECKING:
    from conftest import Workshop

_CONFTEST = Path(__file__).parents[1]

BUILDER = """
import io, sys, threading, time
from pathlib import Path
from conftest import FakeImageSource, FakeSandbox, Workshop, file_item, obey, tar_of
from cache.store import Store
from machinefile.imageconfig import ImageConfig

folder, number, until = Path(sys.argv[1]), int(sys.argv[2]), time.monotonic() + 60
source = FakeImageSource()
source.add("base", [tar_of(file_item("base", b"base"))], ImageConfig(cmd=("/bin/sh",)))
digests, builds = {}, 0
while not (folder / "enough").exists() and time.monotonic() < until:
    word = f"w{(builds + number) % 3}"
    text = f"FROM base\\nRUN write a {word}\\nCOPY f /f\\nRUN write b {word}\\n"
    with Store(folder / "store") as store:
        workshop = Workshop(folder, store, source, FakeSandbox(obey))
        report = workshop.build(text)
        files = workshop.files(report.digest)
    assert files == {"base": b"base", "a": word.encode(), "f": b"f", "b": word.encode()}, files
    assert digests.setdefault(word, report.digest) == report.digest
    builds += 1
print(builds)
"""
CLEANER = """
import sys, time
from pathlib import Path
from cache.collection.item import Sort
from cache.collection.policy import Policy
from cache.store import Store
from engine.collection.prune import prune

folder, until, times = Path(sys.argv[1]), time.monotonic() + 60, 0
while times < 4 and time.monotonic() < until:
    with Store(folder / "store") as store:
        steps = [item for item in prune(store, Policy(everything=True)).removed if item.sort is Sort.STEP]
        times += bool(steps)
(folder / "enough").touch()
print(times)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_CONFTEST), *sys.path])}
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    told = process.stdout.read()
    assert process.wait(60) == 0
    return int(told)


def test_every_build_is_right_while_the_store_is_cleaned_all_the_time(tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "f").write_text("f")
    processes = [start(CLEANER, tmp_path), *(start(BUILDER, tmp_path, number) for number in range(2))]
    try:
        times, *builds = [ended(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert times == 4, "results were removed between the builds"
    assert all(builds)
    with Store(tmp_path / "store") as store:
        prune(store, Policy(everything=True))
        assert {item.sort.value for item in survey(store).items} == {"other"}


def test_who_looks_something_up_waits_for_who_removes(workshop: Workshop) -> None:
    digest = workshop.store.blobs.put(b"x")
    with Store(workshop.folder / "store") as other, workshop.store.uses.gate.alone():
        process = start(
            "import sys; from pathlib import Path; from cache.store import Store\n"
            "with Store(Path(sys.argv[1])) as store: print('asking', flush=True); print(store.blobs.has(sys.argv[2]))",
            other.root,
            digest,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        other.blobs.drop(digest)
    assert process.communicate(timeout=30)[0] == "False\n"


def in_child(work: Callable[[], object]) -> int:
    """Do it in a process of its own, which shares what is imported; gives its exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_cleaning_that_is_killed_anywhere_leaves_a_good_store(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = workshop.store.root
    calls = 0
    die_at = -1

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    def clean() -> None:
        monkeypatch.setattr(Index, "drop_all", counted(Index.drop_all))
        monkeypatch.setattr(cache.collection.sweep, "_move", counted(cache.collection.sweep._move))
        monkeypatch.setattr(cache.collection.sweep.shutil, "rmtree", counted(cache.collection.sweep.shutil.rmtree))
        with Store(root) as store:
            prune(store, Policy(everything=True))

    workshop.write("f")
    text = "FROM base\nRUN write a {0}\nCOPY f /f\nRUN write b {0}\n"
    kept = workshop.build(text.format("kept"), names=("docker.io/library/app:latest",))
    codes = []
    workshop.store.index.close()  # a connection must not be shared with a child
    for die_at in (1, 2, 3, 5, 8, 13, 21, 34, 1000):  # noqa: B007 - `counted` looks at it
        report = workshop.build(text.format("x"))
        workshop.store.index.close()
        workshop.store._workspace.close()
        code = in_child(clean)
        workshop.store = Store(root)
        check(workshop.store, kept.digest)
        again = workshop.build(text.format("x"))
        assert again.digest == report.digest
        codes.append(code)
    assert codes[:4] == [-signal.SIGKILL] * 4
    assert codes[-1] == 0


def check(store: Store, digest: str) -> None:
    """The image is whole, and the index speaks of nothing that is gone."""
    for manifest in manifests_of(store, digest):
        for blob in (manifest.config, *manifest.layers):
            assert store.blobs.path(blob.digest).stat().st_size == blob.size
    holdings = survey(store)
    assert left_over(holdings.references, holdings.items) == ()
