"""Sockets of a guest that lead to sockets of this machine: the host's side of the agent's streams."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

from engine.vm.channel import Channel
from engine.vm.protocol import WINDOW, Op, ProtocolError, Values
from engine.vm.socketmount import Screen, SocketMount
from machinefile.values import dataclass

_STREAM_LIMIT = 64
"""Connections at a time; the agent, which knows of each for longer than we do, makes no more."""
_OVER = select.POLLHUP | select.POLLERR | select.POLLNVAL
_LONGEST = 100
"""Bytes of a socket's path; a longer one does not fit into an address (unix(7))."""


@dataclass(slots=True)
class _Stream:
    """One connection."""

    socket: socket.socket
    screen: Screen
    unsent: bytearray = field(default_factory=bytearray)
    """What the guest wrote, on its way to the socket here."""
    owed: int = 0
    """Bytes in `unsent` for which the guest gets its window back: what the screen let through may be less."""
    room: int = WINDOW
    """Bytes that the guest still takes."""
    guest_ended: bool = False
    ended: bool = False
    """Nothing more comes from the socket here."""


class Forwarder:
    """Serves the connections that the guest makes to the sockets of its mounts; see `connections` for their end."""

    takes = frozenset({Op.OPENED, Op.RECEIVED, Op.GIVEN, Op.CLOSED})

    def __init__(self, sockets: Sequence[SocketMount], channel: Channel) -> None:
        self._sockets = sockets
        self._channel = channel
        self._streams: dict[int, _Stream] = {}

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._streams):
            self._drop(number)

    def frame(self, op: Op, tag: int, values: Values) -> None:
        """The agent speaks of a stream."""
        first = values.number()
        if op is Op.OPENED:
            self._open(first, values.number())
            return
        stream = self._streams.get(first)
        if stream is None:  # it was closed here while this was on its way
            return
        if op is Op.RECEIVED:
            self._receive(stream, values.data())
        elif op is Op.GIVEN:
            stream.room += values.number()
            if stream.room > WINDOW:
                raise ProtocolError("more was given to the guest than was sent")
        else:
            self._drop(first)

    def waits(self) -> Iterator[tuple[int, int]]:
        """The sockets that there is something to do with."""
        for stream in self._streams.values():
            events = select.POLLIN if stream.room and not stream.ended else 0
            events |= select.POLLOUT if stream.unsent else 0
            if events:
                yield stream.socket.fileno(), events

    def serve(self, ready: Mapping[int, int]) -> None:
        """Moves what can be moved."""
        for number, stream in list(self._streams.items()):
            events = ready.get(stream.socket.fileno(), 0)
            if not events:
                continue
            try:
                if stream.unsent and events & (select.POLLOUT | _OVER):
                    self._send(number, stream)
                if stream.room and not stream.ended and events & (select.POLLIN | _OVER):
                    self._pass_on(number, stream)
            except BlockingIOError:
                continue
            except OSError:
                self._channel.tell(Op.CLOSE, number)
                self._drop(number)

    def _open(self, listener: int, number: int) -> None:
        if listener >= len(self._sockets) or number in self._streams:
            raise ProtocolError("a connection to a socket that is not there")
        if len(self._streams) >= _STREAM_LIMIT:
            raise ProtocolError(f"more than {_STREAM_LIMIT} connections at a time")
        mount = self._sockets[listener]
        connected = connect(mount.address)
        if connected is None:
            self._channel.tell(Op.CLOSE, number)
            return
        self._streams[number] = _Stream(connected, (mount.screen or Screen)())

    def _receive(self, stream: _Stream, data: bytes) -> None:
        if len(data) > WINDOW - stream.owed or stream.guest_ended:
            raise ProtocolError("the guest sent more than it was given room for")
        stream.unsent += stream.screen.pass_on(data)
        stream.owed += len(data)
        stream.guest_ended = not data
        self._settle(stream)

    def _settle(self, stream: _Stream) -> None:
        """When all that the guest wrote is sent, it may send more; and its end is passed on."""
        if stream.unsent:
            return
        if stream.guest_ended:
            try:
                stream.socket.shutdown(socket.SHUT_WR)
            except OSError:
                return  # the other side has gone, which its next event shows
        elif stream.owed:
            number = next(number for number, one in self._streams.items() if one is stream)
            self._channel.tell(Op.TAKEN, number, stream.owed)
            stream.owed = 0

    def _send(self, number: int, stream: _Stream) -> None:
        del stream.unsent[: stream.socket.send(stream.unsent)]
        self._settle(stream)

    def _pass_on(self, number: int, stream: _Stream) -> None:
        data = stream.socket.recv(stream.room)
        stream.room -= len(data)
        stream.ended = not data
        self._channel.tell(Op.DATA, number, data)

    def _drop(self, number: int) -> None:
        self._streams.pop(number).socket.close()


def connect(path: str) -> socket.socket | None:
    """A connection to a socket of this machine that does not block; None when nobody answers there."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.setblocking(False)
    try:
        if len(os.fsencode(path)) <= _LONGEST:
            connected.connect(path)
        else:
            folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
            try:
                connected.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            finally:
                os.close(folder)
    except OSError:
        connected.close()
        return None
    return connected
