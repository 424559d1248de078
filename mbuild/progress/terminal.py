"""Progress on a terminal, with rich: settled lines scroll up, below them the part that still changes is drawn again.

Events only change a board; a thread of the display's own draws it ten times a second, so that neither many
events nor a slow terminal hold up the build.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text

from engine.events import Event
from mbuild.progress import frame
from mbuild.progress.board import Board
from mbuild.progress.display import Display
from mbuild.progress.stream import Screen

_INTERVAL = 0.1
"""Seconds between two drawings."""
_PATIENCE = 5.0
"""Seconds to wait for the last drawing: a terminal may be stopped (Ctrl-S)."""


class Terminal(Display):
    """The display for a terminal. The screen may be of any size, any encoding, with or without colours."""

    def __init__(
        self,
        screen: Screen,
        *,
        colour: bool = True,
        size: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`size` in columns and lines, for where it should not be asked of the terminal."""
        super().__init__()
        self._screen = screen
        self._size = size
        self._clock = clock
        self._glyphs = frame.UNICODE if screen.speaks_utf8 else frame.ASCII
        self._board = Board(colour=colour)
        self._console = Console(
            file=screen,  # type: ignore[arg-type]  # rich asks of a stream only what a Screen has
            force_terminal=True,
            no_color=not colour,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        self._live: Live | None = None
        self._since = 0.0
        self._over = threading.Event()
        self._drawer = threading.Thread(target=self._draw_until_over, name="progress", daemon=True)

    def begin(self) -> None:
        """Start drawing."""
        self._since = self._clock()
        self._drawer.start()

    def show(self, event: Event) -> None:
        """Remember the event until the next drawing."""
        self._board.apply(event, self._clock())

    def end(self) -> None:
        """Draw what is left and take the changing part off the screen."""
        self._over.set()
        self._drawer.join(_PATIENCE)

    def _draw_until_over(self) -> None:
        # The first drawing waits: a build that is all cached is over by then, and never needs a changing part.
        while not self._over.wait(_INTERVAL):
            self._draw()
        self._finish()

    def _draw(self) -> None:
        width, height = self._console.size = self._measure()
        with self._lock:
            now = self._clock()
            settled = self._board.take_settled()
            rows = frame.live(self._board, self._glyphs, width=width, height=height - 1, now=now, since=self._since)
        lines = [frame.settled(line, self._glyphs, width) for line in settled]
        drawn = Group(*(_single(row) for row in rows))
        if self._live is None:
            self._print(lines)
            self._live = Live(
                drawn,
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)
            return
        self._live.update(drawn)
        self._print(lines)
        self._live.refresh()

    def _finish(self) -> None:
        if self._live is not None:
            self._live.stop()
        width, _ = self._console.size = self._measure()
        with self._lock:
            self._board.abandon(self._clock())
            settled = self._board.take_settled()
            failures = list(self._board.failures)
        self._print([frame.settled(line, self._glyphs, width) for line in settled])
        for failed in failures:
            self._print(frame.failure(failed, self._glyphs))
        self._screen.flush()

    def _print(self, lines: Sequence[Text]) -> None:
        """Lines that stay; what is longer than the screen is wide is left to the terminal to wrap."""
        if lines:
            self._console.print(Text("\n").join(lines), soft_wrap=True)

    def _measure(self) -> ConsoleDimensions:
        """Columns and lines of the terminal, now: its window may have changed."""
        if self._size is not None:
            return ConsoleDimensions(*self._size)
        try:
            found = os.get_terminal_size(self._screen.fileno())
        except (OSError, ValueError):
            return ConsoleDimensions(80, 24)
        return ConsoleDimensions(found.columns or 80, found.lines or 24)


def _single(row: Text) -> Text:
    row.no_wrap = True
    row.overflow = "crop"
    return row
