"""`mbuild lock` and builds with a lock file, against a registry and a web server. No step needs a microVM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from local_server import FolderServer

from machinefile.platform import native

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = pytest.mark.registry

BOTH = "linux/amd64,linux/arm64"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address of a web server that shows it."""
    folder = tmp_path / "site"
    folder.mkdir()
    with FolderServer(folder) as running:
        yield folder, running.url


def push(mbuild: Mbuild, name: str, content: str) -> str:
    """Give a registry an index for two platforms under a name; gives its digest."""
    context = mbuild.context("FROM scratch\nCOPY content /content\n", "base", content=content)
    return mbuild.ok("-q", "--platform", BOTH, "-t", name, "--push", context).stdout.strip()


def anew(mbuild: Mbuild) -> None:
    """Forget all that the store knows."""
    for entry in mbuild.store.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_locked_build_is_the_same_after_the_tag_moved(mbuild: Mbuild, registry: Any, site: tuple[Path, str]) -> None:
    folder, address = site
    name = f"{registry.address}/locks/base:1"
    first = push(mbuild, name, "one")
    (folder / "tool").write_text("one")
    context = mbuild.context(f"FROM {name}\nADD {address}/tool /tool\n")
    lock = context / "Machinefile.lock"

    refused = mbuild("--locked", context)
    assert (refused.returncode, lock.exists()) == (2, False)
    assert "mbuild lock" in refused.stderr

    said = mbuild.ok("lock", "--platform", BOTH, context)
    assert f"+ {name} for linux/arm64" in said.stdout
    assert f"+ {address}/tool  sha256:" in said.stdout
    pins = read(lock)
    assert [(pin["name"], pin["platform"], pin["index"]) for pin in pins["images"]] == [
        (name, "linux/amd64", first),
        (name, "linux/arm64", first),
    ]
    built = mbuild.ok("-q", "--locked", context).stdout

    second = push(mbuild, name, "two")
    (folder / "tool").write_text("other")
    text = lock.read_text()
    assert mbuild.ok("-q", "--locked", context).stdout == built
    mbuild.ok("lint", "--locked", context)
    assert "MISS" not in mbuild.ok("plan", "--locked", context).stdout
    assert mbuild.ok("lock", context).stdout == f"{lock} is up to date\n"
    mbuild.ok("lock", "--check", context)
    assert lock.read_text() == text
    assert mbuild.ok("-q", "--no-lock", context).stdout != built

    anew(mbuild)
    changed = mbuild("--locked", context)
    assert changed.returncode == 4
    assert "Machinefile:2" in changed.stderr
    assert "Machinefile.lock" in changed.stderr
    assert f"mbuild lock --upgrade {address}/tool" in changed.stderr

    shown = mbuild("lock", "--upgrade", "--check", "--format=json", context)
    assert shown.returncode == 5
    assert lock.read_text() == text
    assert [(one["kind"], one["platform"]) for one in json.loads(shown.stdout)["changes"]] == [
        ("image", "linux/amd64"),
        ("image", "linux/arm64"),
        ("file", None),
    ]
    mode = lock.stat().st_mode
    only = mbuild.ok("lock", "--upgrade", f"{registry.address}/locks/base", context).stdout
    assert "~" in only
    assert f"{address}/tool" not in only
    assert {pin["index"] for pin in read(lock)["images"]} == {second}
    assert read(lock)["files"] == pins["files"]
    assert lock.stat().st_mode == mode
    mbuild.ok("lock", "--upgrade", context)
    assert mbuild.ok("-q", "--locked", context).stdout != built
    assert [path.name for path in context.iterdir() if path.name.startswith(".")] == []


def test_the_index_of_one_platform_serves_the_others(mbuild: Mbuild, registry: Any) -> None:
    name = f"{registry.address}/locks/two:1"
    push(mbuild, name, "one")
    context = mbuild.context(f"FROM {name}\n")
    mbuild.ok("lock", "--platform", "linux/arm64", context)
    before = mbuild.ok("-q", "--platform", "linux/amd64", "--no-lock", context).stdout
    push(mbuild, name, "two")
    anew(mbuild)
    assert mbuild.ok("-q", "--locked", "--platform", "linux/amd64", context).stdout == before
    mbuild.ok("lock", "--platform", BOTH, context)
    assert len({pin["index"] for pin in read(context / "Machinefile.lock")["images"]}) == 1


def test_what_the_lock_lacks_is_listed_with_its_line(mbuild: Mbuild, registry: Any) -> None:
    name = f"{registry.address}/locks/three:1"
    push(mbuild, name, "one")
    context = mbuild.context("FROM scratch\n")
    mbuild.ok("lock", context)
    (context / "Machinefile").write_text(f"FROM scratch\nCOPY --from={name} content /a\n")
    refused = mbuild("--locked", context)
    assert refused.returncode == 2
    assert f"Machinefile:2:1: {name} for {native()}" in refused.stderr
    linted = mbuild("lint", "--locked", context)
    assert (linted.returncode, f"Machinefile:2:1: {name} for {native()}" in linted.stderr) == (2, True)
    built = mbuild.ok("--progress=plain", context)
    assert f"has no pin for {name}" in built.stderr


def test_what_cannot_be_is_refused(mbuild: Mbuild) -> None:
    context = mbuild.context("FROM scratch\n")
    elsewhere = mbuild.folder / "else.lock"
    for words, code in (
        (("lock", "-f", "-"), 2),
        (("lock", "--locked", context), 2),
        (("--no-lock", "--locked", context), 2),
        (("--lock-file", elsewhere, context), 2),
        (("lock", "--check", context), 5),
        (("lock", "--upgrade", "nothing", context), 2),
        (("lock", "--lock-file", mbuild.folder / "no" / "lock", context), 3),
    ):
        assert mbuild(*words).returncode == code, words
    assert list(context.iterdir()) == [context / "Machinefile"]
    assert mbuild("lock", "--lock-file", elsewhere, "-f", "-", context, stdin="FROM scratch\n").returncode == 0
    assert read(elsewhere)["images"] == []
    link = context / "Machinefile.lock"
    os.symlink(elsewhere, link)
    elsewhere.write_text('{"version": 1}')
    broken = mbuild(context)
    assert (broken.returncode, "not a lock file" in broken.stderr) == (2, True)
    mbuild.ok("--no-lock", context)


def test_a_build_imports_of_locks_and_times_only_what_it_uses(mbuild: Mbuild) -> None:
    context = mbuild.context("FROM scratch\nCOPY Machinefile /\n")
    code = "import sys; from mbuild.__main__ import main; main(sys.argv[1:]); print(*sys.modules)"
    locks = {"engine.pins", "engine.lockcheck", "machinefile.lockread"}
    times = {"engine.epoch", "engine.layers.stamp", "engine.output.stamped"}

    def used(*options: str) -> set[str]:
        argv = [sys.executable, "-c", code, *options, os.fspath(context)]
        done = subprocess.run(argv, env=mbuild.environ(), capture_output=True, text=True, timeout=60, check=True)
        return set(done.stdout.splitlines()[-1].split()) & (locks | times)

    assert used() == set()
    assert used("--source-date-epoch=7") == times
    mbuild.ok("lock", context)
    assert used() == locks


def test_a_name_that_is_a_folder_too_upgrades_nothing_else(mbuild: Mbuild) -> None:
    (mbuild.folder / "Machinefile").write_text("FROM scratch\n")
    (mbuild.folder / "debian").mkdir()
    (mbuild.folder / "debian" / "Machinefile").write_text("FROM scratch\n")
    either = mbuild("lock", "--upgrade", "debian")
    assert (either.returncode, "./debian for CONTEXT" in either.stderr) == (2, True)
    named = mbuild("lock", "--upgrade", "debian", "--context", ".")
    assert (named.returncode, "names nothing like that" in named.stderr) == (2, True)
    mbuild.ok("lock", "--upgrade", "./debian")
    (mbuild.folder / "Machinefile").unlink()
    assert "up to date" in mbuild.ok("lock", "--upgrade", "debian").stdout


def test_a_pipe_in_the_place_of_a_lock_file_is_refused_and_not_waited_for(mbuild: Mbuild) -> None:
    context = mbuild.context("FROM scratch\n")
    os.mkfifo(context / "Machinefile.lock")
    refused = mbuild("plan", context)
    assert (refused.returncode, "is not a file" in refused.stderr) == (2, True)
    (context / "Machinefile.lock").unlink()
    (context / "Machinefile.lock").mkdir()
    assert mbuild("plan", context).returncode == 2
