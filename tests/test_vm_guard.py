"""A test run in which no microVM ran must not pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_HEADER = "import pytest\n"


def _run(folder: Path, tests: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    vm: needs a microVM\n")
    (folder / "test_it.py").write_text(_HEADER + tests)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "vm_guard", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_run_with_a_microvm_passes(tmp_path: Path) -> None:
    finished = _run(tmp_path, "@pytest.mark.vm\ndef test_one(): pass\n")
    assert finished.returncode == 0
    assert "vm_guard" not in finished.stdout.splitlines()[-2]


def test_what_processes_side_by_side_run_counts(tmp_path: Path) -> None:
    tests = "@pytest.mark.vm\ndef test_one(): pass\n\ndef test_two(): pass\n"
    finished = _run(tmp_path, tests, "-p", "xdist", "-n", "2")  # one of the two processes runs no microVM
    assert finished.returncode == 0, finished.stdout
    finished = _run(tmp_path, "def test_one(): pass\n", "-p", "xdist", "-n", "1")
    assert finished.returncode == 1
    assert "no test ran a microVM" in finished.stdout


@pytest.mark.parametrize(
    "tests",
    [
        "def test_one(): pass\n",
        "@pytest.mark.vm\n@pytest.mark.skip\ndef test_one(): pass\n",
        "@pytest.mark.vm\ndef test_one(): pytest.skip('no QEMU')\n",
        "@pytest.fixture\ndef vm(): pytest.skip('no QEMU')\n\n@pytest.mark.vm\ndef test_one(vm): pass\n",
        "",
    ],
    ids=["none is marked", "skipped by a mark", "skipped in its body", "skipped by a fixture", "no test at all"],
)
def test_a_run_without_a_microvm_fails(tmp_path: Path, tests: str) -> None:
    finished = _run(tmp_path, tests)
    assert finished.returncode == 1
    assert "no test ran a microVM" in finished.stdout


def test_a_run_that_leaves_the_microvm_tests_out_fails(tmp_path: Path) -> None:
    finished = _run(tmp_path, "@pytest.mark.vm\ndef test_one(): pass\n\ndef test_two(): pass\n", "-m", "not vm")
    assert finished.returncode == 1


def test_a_microvm_test_that_fails_is_a_failure_and_nothing_is_added(tmp_path: Path) -> None:
    finished = _run(tmp_path, "@pytest.mark.vm\ndef test_one(): assert False\n")
    assert finished.returncode == 1
    assert "no test ran a microVM" not in finished.stdout
