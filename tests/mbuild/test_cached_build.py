"""What a build costs in which nothing runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    "hmac",
    "secrets",
    "engine.attest.make",
    "engine.images.push",
    "engine.images.registry",
    "engine.layers.changes",
    "engine.layers.disk",
    "engine.layers.index",
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


def test_it_imports_nothing_that_it_has_no_use_for(tmp_path: Path) -> None:
    (tmp_path / "Machinefile").write_text("FROM scratch\nARG NAME=a\nCOPY Machinefile /${NAME:-b}\n")
    arguments = ["-q", "--cache-dir", str(tmp_path / "store"), str(tmp_path)]
    code = "import sys; from mbuild.__main__ import main; main(sys.argv[1:]); print(*sys.modules)"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "engine.build" in loaded
    assert loaded.isdisjoint(NEEDLESS), loaded & set(NEEDLESS)
