"""What --help prints."""

from __future__ import annotations

import pytest

from mbuild.arguments import Parser


def test_it_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="mbuild")
    parser.add_argument("--long", help="word " * 80)
    widths = {}
    for columns in (60, 140):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            parser.parse_args(["--help"])
        widths[columns] = max(map(len, capsys.readouterr().out.splitlines()))
    assert 50 < widths[60] <= 60
    assert 120 < widths[140] <= 140
