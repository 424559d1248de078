"""A command that somebody talks to: its input, its terminal, the signals it is sent."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

from engine.vm.channel import Channel
from engine.vm.protocol import WINDOW, Command, Op, ProtocolError, Values, command
from machinefile.values import dataclass

_NOTHING, _INPUT, _TERMINAL = 0, 1, 2
_END_OF_INPUT = b"\x04"
"""What a terminal takes for the end, where there is no pipe to close (Ctrl-D)."""
_OVER = select.POLLHUP | select.POLLERR | select.POLLNVAL


@dataclass(frozen=True, slots=True)
class Size:
    """How large a terminal is, in characters; 0 where that is not known."""

    rows: int
    columns: int


class Session:
    """What a command is connected with.

    `source` is a descriptor that the command's standard input is read from; None for no input. It is read only
    as fast as the command takes it, and stays open. `size`, called many times a second, makes the command's
    standard streams a terminal of that size; None for plain ones. `meanwhile` is entered when the command has been
    started, and left when it is over, by whatever end; in the thread that runs it.
    """

    def __init__(
        self,
        source: int | None = None,
        size: Callable[[], Size] | None = None,
        meanwhile: Callable[[Session], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.source = source
        self.size = size
        self.meanwhile = meanwhile or (lambda session: nullcontext())
        self._signals: deque[int] = deque()

    def signal(self, number: int) -> None:
        """Send the command a signal, soon. From any thread, and from a signal handler."""
        self._signals.append(number)

    def signals(self) -> Iterator[int]:
        """Takes those that were not sent yet."""
        while self._signals:
            yield self._signals.popleft()


def attach(session: Session) -> Command:
    """Says how the next process reads."""
    if session.size is not None:
        size = session.size()
        return command(Op.ATTACH, _TERMINAL, size.rows, size.columns)
    return command(Op.ATTACH, _NOTHING if session.source is None else _INPUT, 0, 0)


class Feed:
    """The host's side of a session whose command has been started, by the SPAWN of that tag."""

    takes = frozenset({Op.TOOK})

    def __init__(self, session: Session, channel: Channel, tag: int) -> None:
        self._session = session
        self._channel = channel
        self._tag = tag
        self._size = session.size() if session.size else None
        self._under_way = 0
        self._ended = session.source is None

    def frame(self, op: Op, tag: int, values: Values) -> None:
        """Some of the input has been taken."""
        count = values.number()
        if tag != self._tag or count > self._under_way:
            raise ProtocolError(f"{count} bytes were taken of {self._under_way} that were sent")
        self._under_way -= count

    def waits(self) -> Iterator[tuple[int, int]]:
        """The source, while the guest has room for more of it."""
        if self._session.source is not None and not self._ended and self._under_way < WINDOW - 1:
            yield self._session.source, select.POLLIN

    def serve(self, ready: Mapping[int, int]) -> None:
        """Passes on signals, a new size, and input."""
        for number in self._session.signals():
            self._channel.tell(Op.SIGNAL, self._tag, number)
        if self._session.size is not None and (size := self._session.size()) != self._size:
            self._size = size
            self._channel.tell(Op.RESIZE, self._tag, size.rows, size.columns)
        source = self._session.source
        if source is not None and not self._ended and ready.get(source, 0) & (select.POLLIN | _OVER):
            self._pass_on(source)

    def _pass_on(self, source: int) -> None:
        # A byte of the window is kept back for the end of a terminal's input.
        room = WINDOW - self._under_way - 1
        if room <= 0:
            return
        try:
            data = os.read(source, room)
        except BlockingIOError:
            return
        except OSError:  # a terminal that has gone away, a descriptor that was closed
            data = b""
        if not data:
            self._ended = True
            data = _END_OF_INPUT if self._session.size is not None else b""
        self._under_way += len(data)
        self._channel.tell(Op.INPUT, self._tag, data)
