"""What the machine refuses is told in a line, never in a traceback; no file is left to speak of an earlier build."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.remote.contexts import parse_context
from machinefile.errors import HostError, UsageError
from mbuild.__main__ import main
from mbuild.arguments import Parser, add_build_options
from mbuild.commands.debug import way_in

LONG = "x" * 300


def options(*words: str) -> argparse.Namespace:
    parser = Parser()
    add_build_options(parser)
    return parser.parse_args(words)


def test_the_way_in_names_each_platform() -> None:
    given = options("--platform", "linux/amd64,linux/arm64", "--platform", "linux/s390x", "--ssh", "default", "ctx")
    assert way_in(given, "0.1") == (
        "mbuild debug --platform linux/amd64,linux/arm64 --platform linux/s390x --ssh default 0.1 ctx"
    )


def test_the_way_in_names_what_keys_depend_on() -> None:
    given = options("--normalize-modes", "--source-date-epoch", "git")
    assert way_in(given, "0.1") == "mbuild debug --source-date-epoch git --normalize-modes 0.1"


def built(tmp_path: Path, *words: str) -> int:
    return main(["--cache-dir", str(tmp_path / "store"), *words])


@pytest.mark.parametrize(
    ("words", "code"),
    [(("-f", LONG, "."), 2), ((LONG,), 2), (("--build-context", f"a={LONG}", "."), 2)],
)
def test_a_name_that_is_too_long_is_no_surprise(
    tmp_path: Path, words: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert built(tmp_path, *words) == code
    assert capsys.readouterr().err.startswith("mbuild: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere")
def test_what_may_not_be_looked_at_is_no_surprise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert built(tmp_path, "-f", str(tmp_path / "closed/x"), ".") == 2
    assert "cannot read" in capsys.readouterr().err


def test_a_context_that_cannot_be_looked_at_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        parse_context(f"a={LONG}")
    assert caught.value.code == "context-missing"


def test_what_nobody_foresaw_says_what_and_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr("mbuild.__main__._command", lambda name: fail)
    assert main([]) == HostError.exit_code == 3
    assert capsys.readouterr().err == "mbuild: /some/where: Permission denied\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_standard_output_that_is_full_is_told(tmp_path: Path) -> None:
    (tmp_path / "Machinefile").write_text("FROM scratch\nLABEL a=b\n")
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "mbuild", "plan", "--cache-dir", str(tmp_path / "store"), str(tmp_path)]
        ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert ended.stderr == "mbuild: No space left on device\n"


def test_a_build_that_fails_leaves_no_digest_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "Machinefile").write_text("FROM scratch\nCOPY absent /\n")
    files = [tmp_path / "iid", tmp_path / "facts"]
    for file in files:
        file.write_text("sha256:old")
    assert built(tmp_path, "--iidfile", str(files[0]), "--metadata-file", str(files[1]), str(tmp_path)) == 2
    assert [file for file in files if file.exists()] == []


@pytest.mark.parametrize("option", ["--iidfile", "--metadata-file"])
def test_a_file_that_cannot_be_written_shows_before_the_build(
    tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Machinefile").write_text("FROM scratch\nCOPY absent /\n")
    assert built(tmp_path, option, str(tmp_path / "absent/file"), str(tmp_path)) == 3
    assert "cannot be written: No such file" in capsys.readouterr().err


def test_what_is_no_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "Machinefile").write_text("FROM scratch\nLABEL a=b\n")
    assert built(tmp_path, "--iidfile", "/dev/null", "-q", str(tmp_path)) == 0
    assert Path("/dev/null").is_char_device()
