"""Progress as lines: plain, rawjson, quiet."""

from __future__ import annotations

import base64
import io
import json
import threading

import pytest

from engine.events import (
    BuildEnded,
    Event,
    Note,
    Outcome,
    Planned,
    StepEnded,
    StepOutput,
    StepStarted,
    TransferProgress,
    WarningRaised,
)
from mbuild.progress import ProgressMode, create
from mbuild.progress.plain import Plain
from mbuild.progress.rawjson import RawJson
from mbuild.progress.stream import Screen

_MAKE = "[build 2/4] RUN make"
_COPY = "[build 3/4] COPY . /src"


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _shown(*events: Event, colour: bool = False) -> list[str]:
    stream = io.StringIO()
    with Plain(Screen(stream), colour=colour, clock=Clock()) as display:
        for event in events:
            display(event)
    return stream.getvalue().splitlines()


def test_a_step_that_runs_has_its_number_on_every_line() -> None:
    stream, clock = io.StringIO(), Clock()
    with Plain(Screen(stream), clock=clock) as display:
        display(Planned((("b.1", _MAKE),)))
        display(StepStarted("b.1", _MAKE))
        clock.now += 0.1234
        display(StepOutput("b.1", 1, b"cc -c a.c\ncc -c"))
        display(StepOutput("b.1", 1, b" b.c\n"))
        display(StepEnded("b.1", _MAKE, Outcome.DONE, 1.23))
    assert stream.getvalue() == (f"#1 {_MAKE}\n#1 0.123 cc -c a.c\n#1 0.123 cc -c b.c\n#1 DONE 1.2s\n")


@pytest.mark.parametrize(
    ("outcome", "message", "lines"),
    [
        (Outcome.CACHED, "", ["#1 CACHED"]),
        (Outcome.CANCELLED, "", ["#1 CANCELED"]),
        (Outcome.FAILED, "exit code 2", ["#1 ERROR: exit code 2"]),
        (Outcome.FAILED, "", ["#1 ERROR: failed"]),
        (Outcome.FAILED, "one\ntwo", ["#1 ERROR: one", "#1 ERROR: two"]),
    ],
)
def test_a_step_says_how_it_ended(outcome: Outcome, message: str, lines: list[str]) -> None:
    assert _shown(StepEnded("b.1", _MAKE, outcome, 0.5, message)) == [f"#1 {_MAKE}", *lines]


def test_when_two_steps_take_turns_the_label_is_told_again() -> None:
    assert _shown(
        StepStarted("b.1", _MAKE),
        StepStarted("b.2", _COPY),
        StepOutput("b.1", 1, b"x\n"),
        StepOutput("b.1", 2, b"y\n"),
        StepEnded("b.2", _COPY, Outcome.DONE, 0.2),
    ) == [
        f"#1 {_MAKE}", "",
        f"#2 {_COPY}", "",
        f"#1 {_MAKE}", "#1 0.000 x", "#1 0.000 y", "",
        f"#2 {_COPY}", "#2 DONE 0.2s",
    ]  # fmt: skip


def test_a_last_line_without_its_end_is_shown_before_the_verdict() -> None:
    lines = _shown(
        StepStarted("b.1", _MAKE),
        StepOutput("b.1", 2, b"oops"),
        StepOutput("b.1", 1, b"bye"),
        StepEnded("b.1", _MAKE, Outcome.FAILED, 0.1, "exit code 1"),
    )
    assert lines[:4] == [f"#1 {_MAKE}", "#1 0.000 bye", "#1 0.000 oops", "#1 ERROR: exit code 1"]


def test_a_half_line_of_one_stream_is_not_mixed_into_the_other() -> None:
    lines = _shown(
        StepStarted("b.1", _MAKE),
        StepOutput("b.1", 1, b"out"),
        StepOutput("b.1", 2, b"err\n"),
        StepOutput("b.1", 1, b"put\n"),
    )
    assert lines[1:] == ["#1 0.000 err", "#1 0.000 output"]


def test_escape_sequences_in_output_labels_notes_and_warnings_are_taken_out() -> None:
    lines = _shown(
        Note("no\x1b[2Jte"),
        WarningRaised("war\x1b]0;x\x07ning", "C\x1b[Hode", "f\x1b[2J:1:1"),
        StepStarted("b.1", "RUN \x1b[2Jls"),
        StepOutput("b.1", 1, b"\x1b[31mred\x1b[0m\x1b[2J\n"),
        BuildEnded("sha256:\x1b[1A", ("na\x1b[me",), 1, 2, 3.0),
    )
    assert "\x1b" not in "\n".join(lines)
    assert lines[:2] == ["note", "WARNING: f:1:1: warning (Code)"]


def test_on_a_terminal_colours_of_a_step_stay_and_end_with_the_line() -> None:
    lines = _shown(StepStarted("b.1", _MAKE), StepOutput("b.1", 1, b"\x1b[31mred\n"), colour=True)
    assert lines[1] == "#1 0.000 \x1b[31mred\x1b[0m"


def test_a_transfer_is_told_at_its_start_every_five_seconds_and_at_its_end() -> None:
    stream, clock = io.StringIO(), Clock()
    with Plain(Screen(stream), clock=clock) as display:
        for done in range(11):
            display(TransferProgress("sha256:1", "layer sha256:1", done * 1_000_000, 10_000_000))
            clock.now += 1.0
        display(TransferProgress("sha256:1", "layer sha256:1", 10_000_000, 10_000_000, finished=True))
    assert stream.getvalue().splitlines() == [
        "#1 layer sha256:1",
        "#1 0 B / 10.0 MB",
        "#1 5.0 MB / 10.0 MB",
        "#1 10.0 MB / 10.0 MB",
        "#1 10.0 MB / 10.0 MB DONE 11.0s",
    ]


def test_the_summary_says_what_was_built_and_what_it_cost() -> None:
    assert _shown(BuildEnded("sha256:ab", ("hello:1", "hello:2"), 3, 2, 65.0)) == [
        "built sha256:ab as hello:1, hello:2 in 1m05s: 3 cached, 2 run"
    ]
    assert _shown(BuildEnded("sha256:ab", (), 0, 1, 1.0)) == ["built sha256:ab in 1.0s: 0 cached, 1 run"]


def test_events_from_many_threads_give_whole_lines() -> None:
    stream = io.StringIO()
    with Plain(Screen(stream), clock=Clock()) as display:

        def work(number: int) -> None:
            step = f"b.{number}"
            display(StepStarted(step, step))
            for _ in range(200):
                display(StepOutput(step, 1, step.encode() + b" wrote this\n"))
            display(StepEnded(step, step, Outcome.DONE, 0.0))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = stream.getvalue().splitlines()
    for number in range(4):
        assert sum(line.endswith(f" 0.000 b.{number} wrote this") for line in lines) == 200
    assert sum(line.endswith("DONE 0.0s") for line in lines) == 4


def test_rawjson_has_a_line_an_event_with_its_type_and_all_its_fields() -> None:
    stream = io.StringIO()
    with RawJson(Screen(stream), clock=lambda: 1.23456) as display:
        display(Planned((("b.1", _MAKE),)))
        display(StepOutput("b.1", 2, b"\xff\x1b[2J\n"))
        display(StepEnded("b.1", _MAKE, Outcome.FAILED, 0.5, "exit code 2"))
        display(TransferProgress("sha256:1", "layer", 1, None))
    text = stream.getvalue()
    records = [json.loads(line) for line in text.splitlines()]
    assert records == [
        {"type": "planned", "time": 1.235, "steps": [["b.1", _MAKE]]},
        {"type": "step_output", "time": 1.235, "step": "b.1", "stream": 2, "data": records[1]["data"]},
        {
            "type": "step_ended", "time": 1.235, "step": "b.1", "label": _MAKE,
            "outcome": "failed", "seconds": 0.5, "message": "exit code 2",
        },
        {
            "type": "transfer_progress", "time": 1.235, "id": "sha256:1", "label": "layer",
            "done": 1, "total": None, "finished": False,
        },
    ]  # fmt: skip
    assert base64.b64decode(records[1]["data"]) == b"\xff\x1b[2J\n"
    assert text.isascii()
    assert "\x1b" not in text


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    with create(ProgressMode.QUIET, stream) as display:
        display(StepStarted("b.1", _MAKE))
        display(StepEnded("b.1", _MAKE, Outcome.FAILED, 0.5, "exit code 2"))
        display(WarningRaised("w", "c"))
    assert stream.getvalue() == ""


def test_what_comes_after_the_end_is_dropped() -> None:
    stream = io.StringIO()
    with create(ProgressMode.PLAIN, stream) as display:
        pass
    display(Note("too late"))
    assert stream.getvalue() == ""


@pytest.mark.parametrize("mode", [ProgressMode.PLAIN, ProgressMode.QUIET])
def test_the_last_forty_lines_of_a_failed_step_stand_at_the_end(mode: ProgressMode) -> None:
    stream = io.StringIO()
    with create(mode, stream) as display:
        display(StepStarted("b.1", _MAKE))
        display(StepStarted("b.2", _COPY))
        display(StepOutput("b.1", 1, b"".join(b"line %d\n" % number for number in range(60))))
        display(StepOutput("b.1", 2, b"and no end"))
        display(StepEnded("b.1", _MAKE, Outcome.FAILED, 1.0, "exit code 1"))
        display(StepOutput("b.2", 1, b"still copying\n"))
        display(StepEnded("b.2", _COPY, Outcome.CANCELLED, 1.0))
    tail = stream.getvalue().splitlines()[-43:]
    assert tail[:2] == ["------", f" > {_MAKE}:"]
    assert tail[2:-1] == [f"line {number}" for number in range(21, 60)] + ["and no end"]
    assert tail[-1] == "------"


def test_a_build_that_goes_well_shows_no_tail() -> None:
    shown = _shown(StepStarted("b.1", _MAKE), StepOutput("b.1", 1, b"x\n"), StepEnded("b.1", _MAKE, Outcome.DONE, 1.0))
    assert "------" not in shown
