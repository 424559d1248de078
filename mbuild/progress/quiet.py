"""No progress at all, save the last words of what failed."""

from __future__ import annotations

import time

from engine.events import Event
from mbuild.progress.board import Board
from mbuild.progress.display import Display
from mbuild.progress.stream import Screen
from mbuild.progress.text import last_words


class Quiet(Display):
    """Shows nothing but, at the end, the last lines of a failed step's output. Errors are the caller's to print."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._board = Board(colour=False)

    def show(self, event: Event) -> None:
        """Remember the last lines of the steps that run."""
        self._board.apply(event, time.monotonic())
        self._board.take_settled()

    def end(self) -> None:
        """Write the last lines of the steps that failed."""
        for failed in self._board.failures:
            self._screen.write("".join(f"{line}\n" for line in last_words(failed.label, failed.lines)))
        self._screen.flush()
