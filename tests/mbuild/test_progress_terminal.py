"""The display for a terminal: what is on the screen while a build runs, and what stays."""

from __future__ import annotations

import io
import os
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from mbuild.progress import frame
from mbuild.progress.board import Board, Failure, Mark, Settled
from mbuild.progress.stream import Screen
from mbuild.progress.terminal import Terminal

_SGR = re.compile(r"\x1b\[[0-9;]*m")
# What rich itself sends: colours, the cursor shown and hidden, lines erased, the cursor up.
_RICH = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|2K|1A)|\r|\n")
_PLAN = Planned((("0", "[1/3] FROM debian"), ("1", "[2/3] RUN make"), ("2", "[3/3] COPY . /")))


def _drawn(board: Board, *, width: int = 60, height: int = 20, now: float = 100.0) -> list[str]:
    rows = frame.live(board, frame.UNICODE, width=width, height=height, now=now, since=90.0)
    return [row.plain.rstrip() for row in rows]


def _board(*events: Event, now: float = 90.0) -> Board:
    board = Board()
    for event in events:
        board.apply(event, now)
    return board


def _kept(*events: Event, encoding: str = "utf-8", width: int = 60, colour: bool = True) -> str:
    """What stays on the screen of a short build, without colours."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, newline="") as stream:
        with Terminal(Screen(stream), size=(width, 20), colour=colour) as display:
            for event in events:
                display(event)
        return _SGR.sub("", raw.getvalue().decode(encoding))


def test_steps_that_wait_and_run_are_shown_with_their_times_and_last_lines() -> None:
    board = _board(_PLAN, StepStarted("1", "[2/3] RUN make"), StepOutput("1", 1, b"one\ntwo\nthr"))
    assert _drawn(board) == [
        "⠋ [2/3] RUN make" + " " * 39 + "10.0s",
        "  │ one",
        "  │ two",
        "  │ thr",
        "· [1/3] FROM debian",
        "· [3/3] COPY . /",
        "⠋ 0 of 3 steps" + " " * 41 + "10.0s",
    ]


def test_of_a_long_output_the_last_lines_are_shown() -> None:
    board = _board(StepStarted("1", "RUN make"), StepOutput("1", 1, b"".join(b"%d\n" % n for n in range(1000))))
    assert [line for line in _drawn(board) if "│" in line] == [f"  │ {n}" for n in range(994, 1000)]


def test_a_transfer_shows_bytes_total_and_rate() -> None:
    board = _board(TransferProgress("a", "layer a", 0, 50_000_000))
    board.apply(TransferProgress("a", "layer a", 20_000_000, 50_000_000), 95.0)
    assert _drawn(board)[0] == "↓ layer a" + " " * 25 + "20.0 MB / 50.0 MB 2.0 MB/s"


def test_the_rate_of_a_resumed_transfer_leaves_out_what_was_there() -> None:
    board = _board(TransferProgress("a", "layer a", 40_000_000, None))
    board.apply(TransferProgress("a", "layer a", 50_000_000, None), 95.0)
    assert _drawn(board)[0].endswith("50.0 MB 1.0 MB/s")


def test_many_transfers_are_added_up() -> None:
    board = _board(*(TransferProgress(str(n), f"layer {n}", 0, 1000) for n in range(20)))
    rows = _drawn(board)
    assert [row[:9] for row in rows[:5]] == [f"↓ layer {n}" for n in range(5)]
    assert rows[5].startswith("↓ 15 more transfers")
    assert "0 B / 15.0 kB" in rows[5]


def test_a_finished_transfer_settles_and_may_come_again() -> None:
    board = _board(TransferProgress("a", "layer a", 0, 10), TransferProgress("a", "layer a", 10, 10, finished=True))
    assert board.take_settled() == [Settled(Mark.MOVED, "layer a", 0.0, 10)]
    board.apply(TransferProgress("a", "layer a", 3, 10), 91.0)
    assert "layer a" in _drawn(board)[0]


@given(
    steps=st.integers(0, 30),
    running=st.integers(0, 30),
    transfers=st.integers(0, 30),
    width=st.integers(1, 200),
    height=st.integers(1, 60),
)
def test_the_changing_part_fits_the_screen(steps: int, running: int, transfers: int, width: int, height: int) -> None:
    board = _board(Planned(tuple((str(n), f"RUN 日本 {n}" * 9) for n in range(steps))))
    for n in range(running):
        board.apply(StepStarted(str(n), f"RUN {n}"), 90.0)
        board.apply(StepOutput(str(n), 1, "wide 日本語\t".encode() * 30 + b"\n" * 3), 90.0)
    for n in range(transfers):
        board.apply(TransferProgress(str(n), f"layer {n}", n, None), 90.0)
    rows = frame.live(board, frame.UNICODE, width=width, height=height, now=99.0, since=90.0)
    assert len(rows) <= max(height, 2)
    assert all(row.cell_len <= max(width, 8) for row in rows)


def test_what_settled_stays_in_the_order_in_which_it_happened() -> None:
    shown = _kept(
        _PLAN,
        Note("no working accelerator: software emulation"),
        WarningRaised("casing differs", "FromAsCasing", "Dockerfile:1:1"),
        StepEnded("0", "[1/3] FROM debian", Outcome.CACHED),
        StepStarted("1", "[2/3] RUN make"),
        StepEnded("1", "[2/3] RUN make", Outcome.DONE, 2.5),
        BuildEnded("sha256:ab", ("hello:latest",), 1, 1, 2.6),
    )
    assert [line.rstrip() for line in shown.splitlines()] == [
        "no working accelerator: software emulation",
        "WARNING: Dockerfile:1:1: casing differs (FromAsCasing)",
        "= [1/3] FROM debian" + " " * 35 + "CACHED",
        "✓ [2/3] RUN make" + " " * 40 + "2.5s",
        "✓ built sha256:ab as hello:latest in 2.6s: 1 cached, 1 run",
    ]


def test_a_build_that_is_cached_never_hides_the_cursor() -> None:
    assert "\x1b[?25l" not in _kept(StepEnded("0", "FROM", Outcome.CACHED))


def test_after_a_failure_the_last_forty_lines_of_the_step_are_shown() -> None:
    shown = _kept(
        StepStarted("1", "[2/3] RUN make"),
        StepOutput("1", 1, b"".join(b"line %d\n" % n for n in range(100)) + b"error: no"),
        StepEnded("1", "[2/3] RUN make", Outcome.FAILED, 0.3, "exit code 2"),
    )
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[0] == "✗ [2/3] RUN make" + " " * 33 + "FAILED 0.3s"
    assert lines[1] == "the last 40 lines of [2/3] RUN make:"
    assert lines[2:] == [*(f" │ line {n}" for n in range(61, 100)), " │ error: no"]


def test_a_failure_without_output_has_no_title_over_nothing() -> None:
    assert frame.failure(Failure("RUN false", ()), frame.UNICODE) == []
    assert [row.plain for row in frame.failure(Failure("RUN x", ("one",)), frame.ASCII)] == [
        "output of RUN x:",
        " | one",
    ]


def test_a_step_that_still_runs_at_the_end_was_cancelled() -> None:
    assert "CANCELLED" in _kept(StepStarted("1", "[2/3] RUN sleep inf"))


def test_a_terminal_without_utf8_gets_ascii_signs() -> None:
    shown = _kept(
        StepEnded("1", "RUN é", Outcome.DONE, 0.3), StepEnded("2", "RUN no", Outcome.FAILED, 0.1), encoding="ascii"
    )
    assert shown.startswith("+ RUN ?")
    assert "\nx RUN no" in shown.replace("\r", "")


def test_a_line_too_long_for_the_screen_is_cut_and_keeps_its_time() -> None:
    shown = _kept(StepEnded("1", "RUN " + "x" * 200, Outcome.DONE, 0.3), width=30)
    assert shown.rstrip() == "✓ RUN " + "x" * 18 + "… 0.3s"


def test_without_colour_no_colour_is_sent() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="utf-8") as stream:
        with Terminal(Screen(stream), size=(60, 20), colour=False) as display:
            display(StepStarted("1", "RUN x"))
            display(StepOutput("1", 1, b"\x1b[31mred\n"))
            display(StepEnded("1", "RUN x", Outcome.FAILED, 0.1))
        shown = raw.getvalue()
    assert b"red" in shown
    assert b"\x1b[31m" not in shown
    assert re.search(rb"\x1b\[[0-9;]*3[0-7]m", shown) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.binary(), st.sampled_from([b"\x1b[2J", b"\x1b]0;x\x07", b"\r", b"\n", b"\x1b[31m"]))))
def test_whatever_a_step_writes_only_our_own_sequences_reach_the_terminal(pieces: list[bytes]) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="utf-8", newline="") as stream:
        with Terminal(Screen(stream), size=(40, 10)) as display:
            display(StepStarted("1", "RUN evil"))
            for piece in pieces:
                display(StepOutput("1", 1, piece))
            display(StepEnded("1", "RUN evil", Outcome.FAILED, 0.1))
        shown = raw.getvalue().decode()
    left = _RICH.sub("", shown)
    assert re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f]", left) is None


def test_the_screen_is_drawn_at_most_ten_times_a_second() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="utf-8") as stream:
        started = time.monotonic()
        with Terminal(Screen(stream), size=(60, 20)) as display:
            display(StepStarted("1", "RUN yes"))
            while time.monotonic() - started < 0.5:
                display(StepOutput("1", 1, b"y\n" * 100))
        elapsed = time.monotonic() - started
        drawn = raw.getvalue().count(b"0 of") + raw.getvalue().count(b"preparing")
    assert 1 <= drawn <= elapsed / 0.1 + 1


def test_a_real_terminal_shows_the_build_and_gets_its_cursor_back() -> None:
    ours, theirs = os.openpty()
    read: list[bytes] = []

    def drain() -> None:
        while True:
            try:
                read.append(os.read(ours, 65536))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=drain)
    reader.start()

    def interrupted() -> None:
        with open(theirs, "w", encoding="utf-8") as stream, Terminal(Screen(stream)) as display:
            display(StepStarted("1", "RUN sleep inf"))
            display(StepOutput("1", 1, b"sleeping"))
            time.sleep(0.35)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    reader.join(10)
    os.close(ours)
    shown = b"".join(read).decode()
    assert "sleeping" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1
    assert shown.rstrip().endswith("CANCELLED\x1b[0m")


def test_events_from_many_threads_are_all_shown() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="utf-8") as stream:
        with Terminal(Screen(stream), size=(60, 20)) as display:

            def work(number: int) -> None:
                for part in range(50):
                    step = f"{number}.{part}"
                    display(StepStarted(step, f"RUN {step}"))
                    display(StepOutput(step, 1, b"out\n"))
                    display(StepEnded(step, f"RUN {step}", Outcome.DONE, 0.0))

            threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        shown = raw.getvalue().decode()
    assert len(re.findall(r"✓ RUN \d\.\d+ ", shown)) == 200
