"""--version."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mbuild.__main__ import main


@pytest.mark.parametrize("arguments", [["--version"], ["build", "--version"], [".", "--version"]], ids=" ".join)
def test_it_is_that_of_the_project(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr() == (f"mbuild {project['version']}\n", "")
