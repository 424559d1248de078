"""A conversation with the guest agent over a socket, with deadlines, that notices when the machine is gone."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from engine.vm.protocol import Command, Decoder, Frame, Op, ProtocolError, Value, Values

_TICK = 0.05
"""Seconds between two looks at the machine and at the user's wish to stop."""
_CHUNK = 1 << 18
_PULSE = 10.0
"""Seconds between two signs of life while a command runs."""
_PATIENCE = 120.0
"""Seconds of waiting that a sign of life may take, on however busy a machine."""
_LONGEST_LOOK = 1.0
"""Seconds that one look counts for at most: when mbuild was stopped, or who reads the output was slow, the guest was
not waited for."""
_MOST_TOLD = 16 << 20
"""Bytes that `tell` queues for a guest which does not read them."""
_MOST_UNHEARD = 1 << 18
"""Answers that a guest may owe to what it was told."""
_LARGEST_ERRNO = 4095
"""Of Linux."""


class SilentGuestError(Exception):
    """The agent did not answer in time."""


class GuestGoneError(Exception):
    """The machine ended, or its port was closed."""


class GuestFailureError(Exception):
    """The agent could not do what it was told."""

    def __init__(self, op: Op, errno: int, detail: str) -> None:
        super().__init__(f"{op.name.lower()} {detail}: {os.strerror(errno)}")
        self.op = op
        self.errno = errno
        self.detail = detail


class Companion(Protocol):
    """Something that is served whenever the channel is waited on: it has descriptors and frames of its own."""

    @property
    def takes(self) -> frozenset[Op]:
        """The frames that are for it."""
        ...

    def frame(self, op: Op, tag: int, values: Values) -> None:
        """One of those came. Raises ProtocolError when it makes no sense."""
        ...

    def waits(self) -> Iterable[tuple[int, int]]:
        """Descriptors and the poll events to wait for; each descriptor once."""
        ...

    def serve(self, ready: Mapping[int, int]) -> None:
        """Do what can be done now; called many times a second, also when nothing is ready."""
        ...


class StepTimeoutError(Exception):
    """A process did not end in time."""


class Channel:
    """The host's end. `watch` is called often while waiting; it may raise to end the wait."""

    def __init__(self, end: socket.socket, watch: Callable[[], None], *, first_tag: int = 1) -> None:
        """`first_tag`: for a machine that was talked with before, one that is not in use there."""
        self._socket = end
        self._socket.setblocking(False)
        self._watch = watch
        self._decoder = Decoder()
        self._unsent = bytearray()
        self._first_tag = self._next_tag = first_tag
        self._answers: dict[int, Frame] = {}
        self._waiting: set[int] = set()
        self.on_output: Callable[[int, bytes], None] = _ignore
        self.taps: dict[int, Callable[[int, bytes], None]] = {}
        """Who gets the output of the process that the SPAWN of that tag started, in place of `on_output`."""
        self._exits: dict[int, int] = {}
        self._running: set[int] = set()
        """The tags of SPAWNs whose processes have not ended."""
        self._companions: list[Companion] = []
        self._unheard: set[int] = set()
        self._told = 0
        """Bytes of `tell` that were not sent yet, at most."""

    def accompany(self, companion: Companion) -> None:
        """Serve something from now on."""
        self._companions.append(companion)

    def leave(self, companion: Companion) -> None:
        """Serve it no longer."""
        self._companions.remove(companion)

    def tell(self, op: Op, *values: Value) -> None:
        """Queue a command whose answer nobody waits for; its failure stops no other.

        Raises ProtocolError when the guest has not taken or answered too much of that: it may be what asks for it.
        """
        before = len(self._unsent)
        ((tag, _),) = self.post([Command(op, values, tolerate=True)])
        self._told += len(self._unsent) - before
        if self._told > _MOST_TOLD or len(self._unheard) >= _MOST_UNHEARD:
            raise ProtocolError("the guest does not take what it is told")
        self._waiting.discard(tag)
        self._unheard.add(tag)

    def call(self, commands: Sequence[Command], timeout: float) -> list[Values]:
        """Send commands at once and wait for all answers, at most `timeout` seconds.

        Raises GuestFailureError for the first that failed (and is not tolerated), SilentGuestError,
        GuestGoneError, and whatever the watch raises. The answer of a tolerated failure is empty.
        """
        return self.collect(self.post(commands), timeout)

    def post(self, commands: Sequence[Command]) -> list[tuple[int, Command]]:
        """Queue commands without waiting; the result is for `collect`, and holds each command's tag."""
        posted: list[tuple[int, Command]] = []
        for command in commands:
            tag = self._next_tag
            self._next_tag += 1
            self._unsent += command.frame(tag).encode()
            self._waiting.add(tag)
            if command.op is Op.SPAWN:
                self._running.add(tag)
            posted.append((tag, command))
        return posted

    def push(self) -> None:
        """Send of what was posted as much as goes at once. Raises GuestGoneError."""
        before = -1
        while self._unsent and before != len(self._unsent):
            before = len(self._unsent)
            self._send()

    def collect(self, posted: Sequence[tuple[int, Command]], timeout: float) -> list[Values]:
        """Wait for the answers to commands posted before; see `call`."""
        deadline = time.monotonic() + timeout
        while any(tag in self._waiting for tag, _ in posted):
            self._pump(deadline)
        frames = [(self._answers.pop(tag), command) for tag, command in posted]
        return [_read_answer(frame, command) for frame, command in frames]

    def exited(self, tag: int) -> int | None:
        """The wait status of a process that was seen to end; see `wait_exit`, which does not know it any more."""
        return self._exits.get(tag)

    def pause(self, seconds: float) -> None:
        """Let time pass, and take what comes meanwhile. Raises GuestGoneError, and whatever the watch raises."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self._pump(deadline)
            except SilentGuestError:
                return

    def wait_exit(self, tag: int, timeout: float | None = None) -> int:
        """Wait for the end of the process that the SPAWN of that tag started; its wait status. Without `timeout`
        (seconds) as long as it takes.

        The agent is asked for a sign of life now and then. Raises SilentGuestError when none comes, StepTimeoutError
        when the time is over.
        """
        asked, alive_at, waited = None, time.monotonic(), 0.0
        ends_at = None if timeout is None else alive_at + timeout
        while tag not in self._exits:
            looked_at = time.monotonic()
            if ends_at is not None and looked_at >= ends_at:
                raise StepTimeoutError
            self._pump(None)
            now = time.monotonic()
            if asked is None:
                if now - alive_at > _PULSE:
                    ((asked, _),) = self.post([Command(Op.GET_CLOCK)])
                    waited = 0.0
            elif self._answers.pop(asked, None) is not None:
                asked, alive_at = None, now
            else:
                waited += min(now - looked_at, _LONGEST_LOOK)
                if waited > _PATIENCE:
                    raise SilentGuestError
        return self._exits.pop(tag)

    def _pump(self, deadline: float | None) -> None:
        self._watch()
        left = _TICK if deadline is None else min(_TICK, deadline - time.monotonic())
        if left <= 0:
            raise SilentGuestError
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        for companion in self._companions:
            for descriptor, wanted in companion.waits():
                poller.register(descriptor, wanted)
        ready = dict(poller.poll(left * 1000))
        events = ready.pop(self._socket.fileno(), 0)
        if events & select.POLLOUT:
            self._send()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._receive()
        for companion in self._companions:
            companion.serve(ready)

    def _send(self) -> None:
        try:
            sent = self._socket.send(memoryview(self._unsent)[:_CHUNK])
        except BlockingIOError:
            return
        except OSError as error:
            raise GuestGoneError from error
        del self._unsent[:sent]
        self._told = min(self._told, len(self._unsent))

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise GuestGoneError from error
        if not data:
            self._watch()
            raise GuestGoneError
        for frame in self._decoder.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        values = Values(frame.payload)
        if frame.op == Op.OUTPUT:
            stream = values.number()
            self.taps.get(frame.tag, self.on_output)(stream, values.data())
        elif frame.op == Op.EXIT:
            self._end(frame.tag, values.number())
        elif frame.op == Op.ANSWER and frame.tag in self._unheard:
            self._unheard.discard(frame.tag)
        elif companion := next((one for one in self._companions if frame.op in one.takes), None):
            companion.frame(Op(frame.op), frame.tag, values)
        elif frame.op == Op.ANSWER and frame.tag in self._waiting:
            self._waiting.discard(frame.tag)
            self._answers[frame.tag] = frame
        else:
            raise ProtocolError(f"an unexpected frame {frame.op} with tag {frame.tag}")

    def _end(self, tag: int, status: int) -> None:
        earlier = 0 < tag < self._first_tag and tag not in self._exits  # started before the machine was frozen
        if tag not in self._running and not earlier:
            raise ProtocolError(f"the end of a process that does not run, with tag {tag}")
        self._running.discard(tag)
        self._exits[tag] = status


def _read_answer(frame: Frame, command: Command) -> Values:
    values = Values(frame.payload)
    error = values.number()
    if not error:
        return values
    if error > _LARGEST_ERRNO:
        raise ProtocolError(f"an error with number {error}")
    detail = values.text()
    if command.tolerate:
        return Values(b"")
    raise GuestFailureError(command.op, error, detail)


def _ignore(stream: int, data: bytes) -> None:
    """The output of a process that nobody reads."""
