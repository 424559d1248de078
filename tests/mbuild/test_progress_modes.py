"""Which display is chosen, and what it does to the stream it gets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from engine.events import Note, StepOutput, StepStarted
from mbuild.progress import ProgressMode, create
from mbuild.progress.mode import resolve
from mbuild.progress.plain import Plain
from mbuild.progress.quiet import Quiet
from mbuild.progress.rawjson import RawJson
from mbuild.progress.stream import Screen
from mbuild.progress.terminal import Terminal


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    """The program's end of a pseudo-terminal."""
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as stream:
        yield stream
    os.close(ours)


def _rest(descriptor: int) -> Iterator[bytes]:
    """What can still be read from a pseudo-terminal whose other end is closed."""
    try:
        while piece := os.read(descriptor, 4096):
            yield piece
    except OSError:
        return


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (ProgressMode.TTY, Terminal),
        (ProgressMode.PLAIN, Plain),
        (ProgressMode.QUIET, Quiet),
        (ProgressMode.RAWJSON, RawJson),
        (ProgressMode.AUTO, Plain),
    ],
)
def test_every_mode_has_its_display(mode: ProgressMode, kind: type) -> None:
    assert type(create(mode, io.StringIO())) is kind


@pytest.mark.parametrize(
    ("environment", "chosen"),
    [
        ({"TERM": "xterm-256color"}, ProgressMode.TTY),
        ({"TERM": "dumb"}, ProgressMode.PLAIN),
        ({"TERM": "unknown"}, ProgressMode.PLAIN),
        ({}, ProgressMode.PLAIN),
    ],
)
def test_auto_takes_the_terminal_only_where_its_cursor_moves(
    terminal: TextIO, environment: dict[str, str], chosen: ProgressMode
) -> None:
    assert resolve(ProgressMode.AUTO, terminal, environment) is chosen


def test_auto_is_plain_where_there_is_no_terminal() -> None:
    assert resolve(ProgressMode.AUTO, io.StringIO(), {"TERM": "xterm"}) is ProgressMode.PLAIN


def test_a_mode_that_was_asked_for_is_never_changed() -> None:
    assert resolve(ProgressMode.TTY, io.StringIO(), {"TERM": "dumb"}) is ProgressMode.TTY


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_takes_colours_from_plain_lines(
    monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = os.openpty()
    with open(theirs, "w", encoding="utf-8") as stream, create(ProgressMode.PLAIN, stream) as display:
        display(StepStarted("s", "label"))
        display(StepOutput("s", 1, b"\x1b[31mred\n"))
    shown = b"".join(_rest(ours))
    os.close(ours)
    assert (b"\x1b[31m" in shown) is coloured


@pytest.mark.parametrize("mode", [ProgressMode.PLAIN, ProgressMode.TTY, ProgressMode.RAWJSON])
def test_an_encoding_that_lacks_a_character_gets_a_question_mark(mode: ProgressMode) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", write_through=True) as stream:
        with create(mode, stream) as display:
            display(StepStarted("s", "RUN écho …"))
            display(Note("naïve"))
        shown = raw.getvalue()
    assert shown.isascii()
    assert b"na?ve" in shown or b"na\\u00efve" in shown


@pytest.mark.parametrize("mode", [ProgressMode.PLAIN, ProgressMode.TTY, ProgressMode.RAWJSON])
def test_a_build_goes_on_when_nobody_reads_its_progress(mode: ProgressMode) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    stream = open(theirs, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - closing it fails, on purpose
    with create(mode, stream) as display:
        for number in range(100):
            display(Note(f"note {number}"))
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("mode", list(ProgressMode))
def test_a_closed_stream_harms_nothing(mode: ProgressMode) -> None:
    stream = io.StringIO()
    screen = Screen(stream)
    with create(ProgressMode.TTY if mode is ProgressMode.AUTO else mode, stream) as display:
        stream.close()
        display(Note("nobody sees this"))
    assert not screen.isatty()


def test_an_encoding_that_nobody_knows_is_taken_for_ascii() -> None:
    class Odd(io.StringIO):
        encoding = "no-such-thing"  # type: ignore[assignment]

    stream = Odd()
    Screen(stream).write("é")
    assert stream.getvalue() == "?"


def test_only_the_terminal_display_imports_rich() -> None:
    program = (
        "import io, sys\n"
        "from mbuild.progress import ProgressMode, create\n"
        "for mode in (ProgressMode.PLAIN, ProgressMode.QUIET, ProgressMode.RAWJSON, ProgressMode.AUTO):\n"
        "    create(mode, io.StringIO())\n"
        "sys.exit('rich' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=os.getcwd(), check=False, timeout=60).returncode == 0
