"""--secret, --cpus, --memory, --disk and --step-timeout as they are written."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from engine.secrets import MAX_BYTES
from machinefile.errors import UsageError
from machinefile.steps import MachineShape
from mbuild.limits import read_shape, read_timeout
from mbuild.secrets import read_secrets

ENVIRONMENT = {"TOKEN": "from the environment", "both": "variable"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("id=a,src={file}", b"from a file\n"),
        ("id=a,source={file}", b"from a file\n"),
        ("type=file,id=a,src={file}", b"from a file\n"),
        ("ID=a,SRC={file}", b"from a file\n"),
        ('id=a,"src={file}"', b"from a file\n"),
        ("id=a,env=TOKEN", b"from the environment"),
        ("type=env,id=a,env=TOKEN", b"from the environment"),
        ("type=env,id=a,src=TOKEN", b"from the environment"),
        ("id=a,env=MISSING", b""),
    ],
)
def test_a_secret_is_a_file_or_a_variable(tmp_path: Path, written: str, value: bytes) -> None:
    (tmp_path / "file").write_text("from a file\n")
    assert read_secrets([written.format(file=tmp_path / "file")], ENVIRONMENT).get("a") == value


def test_an_id_alone_is_a_variable_or_else_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("both").write_text("file")
    Path("here").write_text("file")
    found = read_secrets(["id=both", "id=here", "id=x,env=TOKEN", "id=x,src=here"], ENVIRONMENT)
    assert (found.get("both"), found.get("here"), found.get("x"), found.get("y")) == (
        b"variable",
        b"file",
        b"file",
        None,
    )


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("src=x", "bad-secret"),
        ("hunter2-hunter2", "bad-secret"),
        ("id=a,hunter2-hunter2=x", "bad-secret"),
        ("id=a,type=hunter2-hunter2", "bad-secret"),
        ('id=a,"src=hunter2-hunter2', "bad-secret"),
        ("id=a,src=/nowhere/at/all", "secret-unreadable"),
        ("id=a,src=/", "secret-unreadable"),
        ("", "bad-secret"),
    ],
)
def test_what_is_no_secret_is_told(written: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_secrets([written], {})
    assert caught.value.code == code
    assert "hunter2" not in caught.value.message + caught.value.hint, "it may be the secret"


def test_a_secret_has_its_limit(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "most").write_bytes(b"x" * MAX_BYTES)
    assert read_secrets([f"id=a,src={tmp_path / 'most'}"], {}).get("a") == b"x" * MAX_BYTES
    with pytest.raises(UsageError) as caught:
        read_secrets([f"id=a,src={tmp_path / 'large'}"], {})
    assert caught.value.code == "secret-too-large"


def _shape(**given: str) -> MachineShape | None:
    return read_shape(argparse.Namespace(**{"cpus": "", "memory": "", "disk": "", **given}))


def test_sizes_are_docker_s(tmp_path: Path) -> None:
    usual = MachineShape()
    assert _shape() is None
    assert _shape(cpus="4") == MachineShape(4, usual.memory, usual.disk)
    assert _shape(memory="512m", disk="1073741824") == MachineShape(usual.cpus, 512 << 20, 1 << 30)
    assert _shape(memory="1.3g", disk="67108865") == MachineShape(usual.cpus, 1331 << 20, 64 << 20)


@pytest.mark.parametrize(
    "given", [{"cpus": "0"}, {"cpus": "1.5"}, {"memory": "lots"}, {"memory": "1m"}, {"disk": "-1g"}, {"cpus": "256"}]
)
def test_what_is_no_size_is_told(given: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        _shape(**given)


@pytest.mark.parametrize(("written", "seconds"), [("", None), ("90s", 90.0), ("1h30m", 5400.0), ("250ms", 0.25)])
def test_a_length_of_time(written: str, seconds: float | None) -> None:
    assert read_timeout(written) == seconds


@pytest.mark.parametrize("written", ["90", "0s", "-1s", "soon"])
def test_what_is_no_length_of_time_is_told(written: str) -> None:
    with pytest.raises(UsageError):
        read_timeout(written)
