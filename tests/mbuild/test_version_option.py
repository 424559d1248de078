"""--version."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from mbuild.__main__ import main


@pytest.mark.parametrize("arguments", [["--version"], ["build", "--version"], [".", "--version"]], ids=" ".join)
def test_it_is_that_of_the_project(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert capsys.readouterr() == (f"mbuild {version('machinefile')}\n", "")
