"""Bytes handed to who takes them in a thread of its own, so that reading, hashing and writing overlap."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_HELD = 32 << 10
"""Bytes: what is smaller goes together with others."""
_PIECE = 1 << 20
_DEPTH = 8
"""Pieces that may wait."""

Piece = bytes | bytearray


@contextmanager
def conveyed(take: Callable[[Piece], object], name: str) -> Iterator[Conveyor]:
    """A conveyor that is finished by who writes to it, and abandoned on leaving if it was not."""
    conveyor = Conveyor(take, name)
    try:
        yield conveyor
    finally:
        conveyor.abandon()


class Conveyor:
    """Passes bytes on in their order, at most _DEPTH + 2 pieces of _PIECE bytes under way.

    What the taker raises is raised again, once, by the next `write` or `finish`; what comes after it is dropped.
    Every conveyor is to be ended, by `finish` or `abandon`. Used by one thread.
    """

    def __init__(self, take: Callable[[Piece], object], name: str) -> None:
        self._take = take
        self._held = bytearray()
        self._waiting: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(_DEPTH)
        self._error: BaseException | None = None
        self._dropping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, data: Piece) -> None:
        """Pass bytes on. A large piece must not be changed any more by who gave it."""
        if len(data) < _HELD:
            self._held += data
            if len(self._held) >= _PIECE:
                self._send_held()
            return
        self._send_held()
        self._send(data)

    def finish(self) -> None:
        """Wait until all was taken."""
        self._send_held()
        self._end()
        self._raise()

    def abandon(self) -> None:
        """Drop what was not taken yet, and wait for the end of what is being taken. Nothing after `finish`."""
        self._dropping = True
        self._end()

    def _send_held(self) -> None:
        if self._held:
            held, self._held = self._held, bytearray()
            self._send(held)

    def _send(self, data: Piece) -> None:
        self._room.acquire()
        self._raise()
        self._waiting.put(data)

    def _end(self) -> None:
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            self._dropping = True
            raise error

    def _run(self) -> None:
        while (piece := self._waiting.get()) is not None:
            try:
                if not self._dropping:
                    self._take(piece)
            except BaseException as error:  # it is who writes that hears of it
                self._dropping = True
                self._error = error
            finally:
                del piece
                self._room.release()
