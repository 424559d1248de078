"""Draws a board with rich: settled lines one by one, and the part below them that still changes."""

from __future__ import annotations

from typing import Literal

from rich.text import Text

from machinefile.values import dataclass
from mbuild.progress.board import Board, Failure, Mark, RunningStep, Settled, Transfer
from mbuild.progress.units import duration, moved, size

_TAIL = 6
"""Output lines beneath a running step, where there is room."""
_SMALLEST_WIDTH = 8
_TRANSFERS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The signs in front of lines: one column each."""

    done: str
    cached: str
    failed: str
    cancelled: str
    waiting: str
    output: str
    moved: str
    spinner: str
    overflow: Literal["ellipsis", "crop"]
    """How a line that is too long ends."""


UNICODE = Glyphs("✓", "=", "✗", "-", "·", "│", "↓", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "ellipsis")
ASCII = Glyphs("+", "=", "x", "-", ".", "|", "v", "|/-\\", "crop")


def settled(line: Settled, glyphs: Glyphs, width: int) -> Text:
    """One line that will not change any more."""
    match line.mark:
        case Mark.NOTE:
            return Text(line.text, style="dim")
        case Mark.WARNING:
            return Text(line.text, style="yellow")
        case Mark.BUILT:
            return Text(f"{glyphs.done} {line.text}", style="bold green")
        case Mark.MOVED:
            return _row(
                glyphs.moved, line.text, f"{size(line.size or 0)} {duration(line.seconds or 0)}", width, "dim", glyphs
            )
        case Mark.CACHED:
            return _row(glyphs.cached, line.text, "CACHED", width, "cyan", glyphs)
        case Mark.DONE:
            return _row(glyphs.done, line.text, duration(line.seconds or 0), width, "green", glyphs)
        case Mark.FAILED:
            return _row(glyphs.failed, line.text, f"FAILED {duration(line.seconds or 0)}", width, "bold red", glyphs)
        case Mark.CANCELLED:
            return _row(glyphs.cancelled, line.text, "CANCELLED", width, "yellow", glyphs)


def failure(failed: Failure, glyphs: Glyphs) -> list[Text]:
    """The last lines of a failed step, whole: nothing is cut off."""
    if not failed.lines:
        return []
    count = len(failed.lines)
    title = Text(
        f"the last {count} lines of {failed.label}:" if count > 1 else f"output of {failed.label}:", "bold red"
    )
    return [title, *(_output(line, glyphs, indent=1) for line in failed.lines)]


def live(board: Board, glyphs: Glyphs, *, width: int, height: int, now: float, since: float) -> list[Text]:
    """The changing part, at most `height` lines: transfers, running steps with their output, what waits, the count."""
    spinner = glyphs.spinner[int(now * 10) % len(glyphs.spinner)]
    room = max(height, 2) - 1
    moving = _transfers(board, glyphs, width, now, min(_TRANSFERS_SHOWN, max(1, room // 3)))[:room]
    room -= len(moving)
    steps = _running(list(board.running.values()), glyphs, spinner, width, now, room)
    room -= len(steps)
    waiting = _waiting(list(board.waiting.values()), glyphs, width, min(room, max(3, height // 3)))
    return [*moving, *steps, *waiting, _count(board, glyphs, spinner, width, now - since)]


def _running(steps: list[RunningStep], glyphs: Glyphs, spinner: str, width: int, now: float, room: int) -> list[Text]:
    if len(steps) > room:  # one line says how many there was no room for
        steps = steps[: max(room - 1, 0)]
    beneath = min(_TAIL, (room - len(steps)) // max(len(steps), 1))
    rows: list[Text] = []
    for step in steps:
        rows.append(_row(spinner, step.label, duration(now - step.started), width, "bold", glyphs))
        rows += [_cut(_output(line, glyphs, indent=2), glyphs, width) for line in step.tail(beneath)]
    return rows


def _waiting(labels: list[str], glyphs: Glyphs, width: int, room: int) -> list[Text]:
    if not labels or room < 1:
        return []
    shown = labels if len(labels) <= room else labels[: room - 1]
    rows = [_row(glyphs.waiting, label, "", width, "dim", glyphs) for label in shown]
    more = len(labels) - len(shown)
    return [*rows, _row(glyphs.waiting, f"{more} more to come", "", width, "dim", glyphs)] if more else rows


def _transfers(board: Board, glyphs: Glyphs, width: int, now: float, room: int) -> list[Text]:
    transfers = list(board.transfers.values())
    if len(transfers) <= room:
        return [_transfer(transfer, glyphs, width, now) for transfer in transfers]
    rest = transfers[room - 1 :]
    totals = [transfer.total for transfer in rest]
    together = Transfer(
        f"{len(rest)} {'more ' if room > 1 else ''}transfers",
        sum(transfer.done for transfer in rest),
        None if None in totals else sum(total or 0 for total in totals),
        min(transfer.started for transfer in rest),
        sum(transfer.first for transfer in rest),
    )
    return [_transfer(transfer, glyphs, width, now) for transfer in [*transfers[: room - 1], together]]


def _transfer(transfer: Transfer, glyphs: Glyphs, width: int, now: float) -> Text:
    amount = f"{moved(transfer.done, transfer.total)} {size(transfer.rate(now))}/s"
    return _row(glyphs.moved, transfer.label, amount, width, "", glyphs)


def _count(board: Board, glyphs: Glyphs, spinner: str, width: int, elapsed: float) -> Text:
    steps = f"{board.ended} of {max(board.planned, board.ended)} steps" if board.planned else "preparing"
    return _row(spinner, steps, duration(elapsed), width, "dim", glyphs)


def _output(line: str, glyphs: Glyphs, *, indent: int) -> Text:
    """A line that a step wrote; it is clean but for colours."""
    text = Text(" " * indent + f"{glyphs.output} ", style="dim")
    body = Text.from_ansi(line) if "\x1b" in line else Text(line)
    body.expand_tabs(8)
    return Text.assemble(text, body)


def _row(sign: str, label: str, right: str, width: int, style: str, glyphs: Glyphs) -> Text:
    """`sign label ........ right`, the label cut so that it all fits; without the right side where there is no room."""
    width = max(width, _SMALLEST_WIDTH)
    if right and len(right) + 12 > width:
        right = ""
    left = width - (len(right) + 1 if right else 0)
    text = Text(f"{sign} {label}")
    text.truncate(left, overflow=glyphs.overflow, pad=bool(right))
    if right:
        text.append(f" {right}")
    if style:
        text.stylize(style)
    return text


def _cut(text: Text, glyphs: Glyphs, width: int) -> Text:
    text.truncate(max(width, _SMALLEST_WIDTH), overflow=glyphs.overflow)
    return text
