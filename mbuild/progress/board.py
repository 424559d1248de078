"""What is known of a build at one moment: the terminal's display draws it."""

from __future__ import annotations

from collections import deque
from dataclasses import field
from enum import Enum

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
from machinefile.values import dataclass
from mbuild.progress.summary import summary, warning
from mbuild.progress.text import LineReader, label

KEPT_LINES = 40
"""How many of a step's last lines are remembered."""
_LONGEST_KEPT = 2000
"""Characters of one remembered line."""


class Mark(Enum):
    """What kind of a line a settled line is."""

    CACHED = "cached"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    MOVED = "moved"
    NOTE = "note"
    WARNING = "warning"
    BUILT = "built"


@dataclass(frozen=True, slots=True)
class Settled:
    """A line that will not change any more."""

    mark: Mark
    text: str
    seconds: float | None = None
    size: int | None = None


@dataclass(slots=True)
class RunningStep:
    """A step that runs, and what it wrote last."""

    label: str
    started: float
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    readers: dict[int, LineReader] = field(default_factory=dict)

    def tail(self, count: int) -> list[str]:
        """The last `count` lines, those without an end yet among them."""
        partial = [line for reader in self.readers.values() if (line := reader.partial)]
        return [*self.lines, *partial][-count:] if count > 0 else []


@dataclass(slots=True)
class Transfer:
    """Bytes on their way."""

    label: str
    done: int
    total: int | None
    started: float
    first: int
    """How many bytes were there when it was first heard of: a resumed transfer's rate leaves them out."""

    def rate(self, now: float) -> float:
        """Bytes a second since it started."""
        elapsed = now - self.started
        return (self.done - self.first) / elapsed if elapsed > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed step and the last lines it wrote."""

    label: str
    lines: tuple[str, ...]


_MARKS = {
    Outcome.CACHED: Mark.CACHED,
    Outcome.DONE: Mark.DONE,
    Outcome.FAILED: Mark.FAILED,
    Outcome.CANCELLED: Mark.CANCELLED,
}


@dataclass(slots=True)
class Board:
    """Steps that wait, steps that run, transfers, and what has settled since it was last taken."""

    colour: bool = True
    waiting: dict[str, str] = field(default_factory=dict)
    """Labels by id, in the order of the plan."""
    running: dict[str, RunningStep] = field(default_factory=dict)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    planned: int = 0
    ended: int = 0
    _settled: list[Settled] = field(default_factory=list)

    def take_settled(self) -> list[Settled]:
        """The lines that settled since the last call."""
        taken, self._settled = self._settled, []
        return taken

    def apply(self, event: Event, now: float) -> None:
        """Take an event that came at `now`, in seconds of a monotonic clock."""
        match event:
            case Planned():
                self.waiting = {step: label(text) for step, text in event.steps}
                self.planned = len(event.steps)
                self.ended = 0
                self.failures.clear()  # a build that lost a blob is taken up again
            case StepStarted():
                self.waiting.pop(event.step, None)
                self.running[event.step] = RunningStep(label(event.label), now)
            case StepOutput():
                self._output(event, now)
            case StepEnded():
                self._step_ended(event)
            case TransferProgress():
                self._transfer(event, now)
            case Note():
                self._settled.append(Settled(Mark.NOTE, label(event.message)))
            case WarningRaised():
                self._settled.append(Settled(Mark.WARNING, warning(event)))
            case BuildEnded():
                self._settled.append(Settled(Mark.BUILT, summary(event)))

    def abandon(self, now: float) -> None:
        """The build is over: whatever still runs was cancelled."""
        for step in self.running.values():
            self._settled.append(Settled(Mark.CANCELLED, step.label, now - step.started))
        self.running.clear()
        self.transfers.clear()
        self.waiting.clear()

    def _output(self, event: StepOutput, now: float) -> None:
        step = self.running.get(event.step)
        if step is None:
            step = self.running[event.step] = RunningStep(label(event.step), now)
        reader = step.readers.get(event.stream)
        if reader is None:
            reader = step.readers[event.stream] = LineReader(colour=self.colour, longest=_LONGEST_KEPT)
        step.lines.extend(reader.feed(event.data, last=KEPT_LINES))

    def _step_ended(self, event: StepEnded) -> None:
        self.waiting.pop(event.step, None)
        step = self.running.pop(event.step, None)
        self.ended += 1
        text = label(event.label)
        cached = event.outcome is Outcome.CACHED
        self._settled.append(Settled(_MARKS[event.outcome], text, None if cached else event.seconds))
        if event.outcome is Outcome.FAILED:
            self.failures.append(Failure(text, tuple(step.tail(KEPT_LINES)) if step else ()))

    def _transfer(self, event: TransferProgress, now: float) -> None:
        transfer = self.transfers.get(event.id)
        if transfer is None:
            transfer = self.transfers[event.id] = Transfer(
                label(event.label), event.done, event.total, now, 0 if event.finished else event.done
            )
        transfer.done, transfer.total = event.done, event.total
        if event.finished:
            del self.transfers[event.id]
            self._settled.append(Settled(Mark.MOVED, transfer.label, now - transfer.started, event.done))
