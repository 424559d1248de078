"""What a build costs in which nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

NEEDLESS = (
    "cache.carry.entry",
    "cache.carry.index",
    "cache.carry.place",
    "engine.carry.imagekeys",
    "engine.carry.inline",
    "engine.carry.recordkeys",
    "engine.carry.spec",
    "engine.explain.differences",
    "engine.explain.explanation",
    "engine.explain.missing",
    "engine.explain.words",
    "base64",
    "csv",
    "ctypes",
    "concurrent.futures",
    "difflib",
    "diskcache",
    "hmac",
    "inspect",
    "logging",
    "pickle",
    "secrets",
    "shutil",
    "socket",
    "tempfile",
    "engine.attest.make",
    "engine.images.push",
    "engine.images.registry",
    "engine.layers.changes",
    "engine.layers.disk",
    "engine.layers.headerwrite",
    "engine.layers.index",
    "engine.layers.layerdisk",
    "engine.layers.tarread",
    "engine.layers.tarwrite",
    "engine.remote.git",
    "engine.remote.web",
    "engine.steps.mounts",
    "engine.steps.run",
    "engine.steps.unpack",
    "engine.vm.channel",
    "engine.vm.execution",
    "fractions",
    "mbuild.trace",
    "httpx",
    "lark",
    "networkx",
    "rich",
    "ssl",
    "subprocess",
    "zstandard",
)
"""Modules that only caches elsewhere, explanations, secrets, registries, steps that run and files that were never read
need."""


PROBE = """
import json, os, sqlite3, sys

statements, synced, connect, sync = [], [], sqlite3.connect, os.fsync

def traced(*given, **named):
    made = connect(*given, **named)
    made.set_trace_callback(statements.append)
    return made

sqlite3.connect, os.fsync = traced, lambda descriptor: (synced.append(descriptor), sync(descriptor))

import cache.contexts
from mbuild.__main__ import main

# The first build shall remember what it hashed, however new the file is: else some later one writes it.
cache.contexts.SAFE_AGE = -(1 << 62)
code = main(sys.argv[1:])
print()
print(json.dumps({"code": code, "modules": list(sys.modules), "statements": statements, "synced": len(synced)}))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a build did."""

    modules: frozenset[str]
    statements: tuple[str, ...]
    synced: int


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cost, Cost]:
    """Of a build, and of the same again."""
    folder = tmp_path_factory.mktemp("cached")
    (folder / "Machinefile").write_text("FROM scratch\nARG NAME=a\nCOPY Machinefile /${NAME:-b}\nENV A=b\n")
    first, second = (_built(folder) for _ in range(2))
    return first, second


def _built(folder: Path) -> Cost:
    arguments = ["-q", "--cache-dir", str(folder / "store"), "-t", "kept", str(folder)]
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] == 0, done.stderr
    return Cost(frozenset(told["modules"]), tuple(told["statements"]), told["synced"])


def test_it_imports_nothing_that_it_has_no_use_for(costs: tuple[Cost, Cost]) -> None:
    loaded = costs[1].modules
    assert "engine.build" in loaded
    assert loaded.isdisjoint(NEEDLESS), loaded & set(NEEDLESS)


def test_it_asks_the_index_for_little_and_writes_nothing_there(costs: tuple[Cost, Cost]) -> None:
    first, second = costs
    assert any(one.startswith("INSERT") for one in first.statements)
    assert {one.split()[0] for one in second.statements} == {"PRAGMA", "SELECT"}
    assert len(second.statements) < 40, second.statements


def test_it_waits_for_no_disk(costs: tuple[Cost, Cost]) -> None:
    first, second = costs
    assert first.synced > 0
    assert second.synced == 0
