"""Moves a machine's frames between QEMU and the gate that judges them, in a thread of its own.

QEMU hands over every frame that the guest sends (filter-redirector, queue=rx) and takes back those that may go on;
a third socket takes frames for the guest (queue=tx). What comes from outside goes to the guest without us. On each
socket a frame stands behind its length, 4 bytes big-endian (QEMU's net/filter-mirror.c). A redirector whose sockets
are closed drops what it gets: without the pump nothing leaves the guest.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import field

from engine.vm.network.dns import Answer, Code, Lookup, Question, ask_host
from engine.vm.network.gate import Gate
from engine.vm.network.packets import Packet
from machinefile.values import dataclass

_CHUNK = 1 << 18
_LARGEST_FRAME = 1 << 17
_MOST_UNSENT = 1 << 20
"""Bytes that wait for QEMU; a frame that comes on top is lost, as on any wire."""
_REMEMBERED = 20.0
"""Seconds that an answer is used again: a program asks for the same name in several ways."""
_MOST_REMEMBERED = 4096
_MOST_ASKED = 8
"""Names of one machine that the host is being asked for: few of `_LOOKUPS`, which all machines share."""
_MOST_WAITING = 32
"""Questions of one machine that wait for one name."""
_STOP_TIMEOUT = 5.0
_LOOKUPS = threading.BoundedSemaphore(32)
"""Threads of this process that ask the host's resolver, which nothing can interrupt."""


class _Outlet:
    """A socket to QEMU with what it could not take yet."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.unsent = bytearray()

    def put(self, frame: bytes) -> None:
        if len(self.unsent) < _MOST_UNSENT:
            self.unsent += len(frame).to_bytes(4, "big") + frame

    def flush(self) -> None:
        while self.unsent:
            try:
                sent = self.end.send(self.unsent)
            except BlockingIOError:
                return
            del self.unsent[:sent]


@dataclass(slots=True)
class _Asked:
    """A name that the host is being asked for, and who waits."""

    waiting: list[tuple[Packet, Question]] = field(default_factory=list)


class Pump:
    """The thread of one machine."""

    def __init__(self, gate: Gate, ends: tuple[socket.socket, socket.socket, socket.socket], lookup: Lookup) -> None:
        self._gate = gate
        self._lookup = lookup
        self._inlet = ends[0]
        self._onward, self._back = _Outlet(ends[1]), _Outlet(ends[2])
        for end in ends:
            end.setblocking(False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._answers: deque[tuple[str, Answer]] = deque()
        self._asked: dict[str, _Asked] = {}
        self._known: dict[str, tuple[float, Answer]] = {}
        self._stopping = False
        self._lock = threading.Lock()
        self.failure: Exception | None = None
        """Why it ended, if something went wrong in it; the guest's network is closed then."""
        self._thread = threading.Thread(target=self._run, name="egress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, at once."""
        self._stopping = True
        self._rouse()
        self._thread.join(_STOP_TIMEOUT)

    def _rouse(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            self._serve()
        except OSError:
            pass  # QEMU went away in the middle
        except Exception as error:
            self.failure = error
        finally:
            with self._lock:
                os.close(self._wake)
                self._wake = -1
            for end in (self._inlet, self._onward.end, self._back.end):
                end.close()

    def _serve(self) -> None:
        buffer = bytearray()
        while not self._stopping:
            poller = select.poll()
            poller.register(self._inlet, select.POLLIN)
            poller.register(self._wake, select.POLLIN)
            for outlet in (self._onward, self._back):
                if outlet.unsent:
                    poller.register(outlet.end, select.POLLOUT)
            ready = {descriptor for descriptor, _ in poller.poll()}
            if self._wake in ready:
                os.eventfd_read(self._wake)
                self._deliver()
            if self._inlet.fileno() in ready:
                data = self._inlet.recv(_CHUNK)
                if not data:
                    return
                buffer += data
                self._take(buffer)
            self._onward.flush()
            self._back.flush()

    def _take(self, buffer: bytearray) -> None:
        """Judge the frames that are complete and take them out of the buffer."""
        at = 0
        while len(buffer) - at >= 4:
            length = int.from_bytes(buffer[at : at + 4], "big")
            if length > _LARGEST_FRAME:
                raise ValueError(f"a frame of {length} bytes")
            if len(buffer) - at - 4 < length:
                break
            frame = bytes(buffer[at + 4 : at + 4 + length])
            at += 4 + length
            verdict = self._gate.judge(frame)
            if verdict.passes:
                self._onward.put(frame)
            elif verdict.reply is not None:
                self._back.put(verdict.reply)
            elif verdict.asked is not None:
                self._ask(*verdict.asked)
        del buffer[:at]

    def _ask(self, packet: Packet, question: Question) -> None:
        name = question.name
        until, answer = self._known.get(name, (0.0, None))
        if answer is not None and until > time.monotonic():
            self._back.put(self._gate.answer(packet, question, answer))
            return
        asked = self._asked.get(name)
        if asked is None:
            # One that is dropped will be asked again by the guest.
            if len(self._asked) >= _MOST_ASKED or not _LOOKUPS.acquire(blocking=False):
                return
            asked = self._asked[name] = _Asked()
            threading.Thread(target=self._look_up, args=(name,), name="lookup", daemon=True).start()
        if len(asked.waiting) < _MOST_WAITING:
            asked.waiting.append((packet, question))

    def _look_up(self, name: str) -> None:
        answer = Answer(Code.FAILED)
        try:
            answer = self._lookup(name)
        finally:
            _LOOKUPS.release()
            self._answers.append((name, answer))
            self._rouse()

    def _deliver(self) -> None:
        while self._answers:
            name, answer = self._answers.popleft()
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            if answer.code is not Code.FAILED:
                self._known[name] = (time.monotonic() + _REMEMBERED, answer)
            for packet, question in self._asked.pop(name).waiting:
                self._back.put(self._gate.answer(packet, question, answer))


@dataclass(frozen=True, slots=True)
class Wires:
    """QEMU's ends of the three sockets, and the pump at the others."""

    outward: socket.socket
    onward: socket.socket
    back: socket.socket
    pump: Pump

    @property
    def ends(self) -> tuple[socket.socket, socket.socket, socket.socket]:
        """What QEMU inherits; to be closed here once it has."""
        return self.outward, self.onward, self.back


@contextmanager
def open_wires(gate: Gate, lookup: Lookup = ask_host) -> Iterator[Wires]:
    """Start a pump for a machine; leaving the context ends it and closes what is left open."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(3)]
        for pair in pairs:
            for end in pair:
                stack.callback(end.close)
        ours = tuple(pair[0] for pair in pairs)
        pump = Pump(gate, (ours[0], ours[1], ours[2]), lookup)
        stack.callback(pump.stop)
        yield Wires(pairs[0][1], pairs[1][1], pairs[2][1], pump)
