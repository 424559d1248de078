"""The fuzzer's targets: over the corpus always, and for a few seconds each with inputs of the fuzzer's own making."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent
CORPUS = FOLDER / "corpus"
SECONDS = int(os.environ.get("MBUILD_FUZZ_SECONDS", "2"))
"""For each target; a longer run is MBUILD_FUZZ_SECONDS=600 pytest tests/fuzz."""
NAMES = ("parse", "expand", "ignore", "resolve", "index", "lock")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TARGETS = load("targets").TARGETS
SEEDS = sorted(path for path in CORPUS.rglob("*") if path.is_file())


def test_every_target_has_seeds() -> None:
    assert set(TARGETS) == set(NAMES)
    for name in NAMES:
        assert any((CORPUS / name).iterdir())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: seed.name)
def test_the_corpus_keeps_every_promise(name: str, seed: Path) -> None:
    TARGETS[name](seed.read_bytes())


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_the_fuzzer_finds_nothing_in_a_few_seconds(name: str, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    argv = [sys.executable, str(FOLDER / "fuzz.py"), name, str(found), str(CORPUS / name)]
    argv += ["-seed=1", f"-max_total_time={SECONDS}", "-timeout=5", "-max_len=2048", "-rss_limit_mb=2048"]
    argv += [f"-artifact_prefix={tmp_path}/", f"-dict={FOLDER / 'words.dict'}"]
    run = subprocess.run(argv, capture_output=True, timeout=SECONDS + 120, check=False)
    output = run.stderr.decode(errors="replace") + run.stdout.decode(errors="replace")
    crashes = [path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.is_file()]
    assert run.returncode == 0, f"{crashes}\n{output[-4000:]}"
    assert "Done " in output, output[-2000:]
