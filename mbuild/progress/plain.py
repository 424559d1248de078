"""Progress as lines for a log, in the form that BuildKit's users know: `#3 [build 2/4] RUN make`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import field

from engine.events import (
    BuildEnded,
    Event,
    NetworkReached,
    Note,
    Outcome,
    StepEnded,
    StepOutput,
    StepStarted,
    TransferProgress,
    WarningRaised,
)
from machinefile.values import dataclass
from mbuild.progress.board import Board
from mbuild.progress.display import Display
from mbuild.progress.stream import Screen
from mbuild.progress.summary import reached, summary, warning
from mbuild.progress.text import LineReader, label, last_words
from mbuild.progress.units import duration, moved

_TRANSFER_INTERVAL = 5.0
"""Seconds between two lines of one transfer."""


@dataclass(slots=True)
class _Section:
    """A step or a transfer: what has a number."""

    number: int
    label: str
    started: float
    shown: float
    """When a transfer's line was last written."""
    readers: dict[int, LineReader] = field(default_factory=dict)


class Plain(Display):
    """Every line of a step or a transfer starts with its number; the label is told again when another came between."""

    def __init__(self, screen: Screen, *, colour: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._screen = screen
        self._colour = colour
        self._clock = clock
        self._sections: dict[str, _Section] = {}
        self._numbers = 0
        self._current: _Section | None = None
        self._board = Board(colour=colour)

    def show(self, event: Event) -> None:
        """Write the event's lines, if it has any."""
        self._board.apply(event, self._clock())
        self._board.take_settled()
        match event:
            case StepStarted():
                self._write(self._section(event.step, event.label), ())
            case StepOutput():
                self._output(event)
            case StepEnded():
                self._ended(event)
            case NetworkReached():
                self._write(self._section(event.step, event.label), reached(event))
            case TransferProgress():
                self._transfer(event)
            case Note():
                self._line(label(event.message))
            case WarningRaised():
                self._line(warning(event))
            case BuildEnded():
                self._line(summary(event))

    def end(self) -> None:
        """Write the last lines of what failed once more: those of other steps may stand behind them by now."""
        for failed in self._board.failures:
            self._send(last_words(failed.label, failed.lines))

    def _output(self, event: StepOutput) -> None:
        section = self._section(event.step, event.step)
        reader = section.readers.get(event.stream)
        if reader is None:
            reader = section.readers[event.stream] = LineReader(colour=self._colour)
        self._write_timed(section, reader.feed(event.data))

    def _ended(self, event: StepEnded) -> None:
        section = self._section(event.step, event.label)
        for _, reader in sorted(section.readers.items()):
            self._write_timed(section, reader.flush())
        self._write(section, _verdict(event))
        del self._sections[event.step]

    def _transfer(self, event: TransferProgress) -> None:
        key = f"transfer {event.id}"
        new = key not in self._sections
        section = self._section(key, event.label)
        now = self._clock()
        if event.finished:
            self._write(section, [f"{moved(event.done, event.total)} DONE {duration(now - section.started)}"])
            del self._sections[key]
        elif new or now - section.shown >= _TRANSFER_INTERVAL:
            section.shown = now
            self._write(section, [moved(event.done, event.total)])

    def _section(self, key: str, text: str) -> _Section:
        section = self._sections.get(key)
        if section is None:
            self._numbers += 1
            now = self._clock()
            section = self._sections[key] = _Section(self._numbers, label(text), now, now)
        return section

    def _write_timed(self, section: _Section, lines: Iterable[str]) -> None:
        elapsed = self._clock() - section.started
        timed = [f"{elapsed:.3f} {line}" for line in lines]
        if timed:
            self._write(section, timed)

    def _write(self, section: _Section, lines: Iterable[str]) -> None:
        written: list[str] = []
        if section is not self._current:
            written += (
                ["", f"#{section.number} {section.label}"] if self._current else [f"#{section.number} {section.label}"]
            )
            self._current = section
        written += [f"#{section.number} {line}" for line in lines]
        self._send(written)

    def _line(self, line: str) -> None:
        self._send(["", line] if self._current else [line])
        self._current = None

    def _send(self, lines: list[str]) -> None:
        if lines:
            self._screen.write("".join(f"{line}\n" for line in lines))
            self._screen.flush()


def _verdict(event: StepEnded) -> list[str]:
    match event.outcome:
        case Outcome.CACHED:
            return ["CACHED"]
        case Outcome.DONE:
            return [f"DONE {duration(event.seconds)}"]
        case Outcome.CANCELLED:
            return ["CANCELED"]
        case Outcome.FAILED:
            return [f"ERROR: {line}" for line in map(label, event.message.splitlines())] or ["ERROR: failed"]
