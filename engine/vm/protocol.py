"""The frames between the host and the guest agent; agent/agent.h is the other half and says what each means."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum

from machinefile.values import dataclass

PROTOCOL_VERSION = 1
PORT_NAME = "mbuild.agent"
FRAME_LIMIT = 64 << 20
"""Bytes of a payload; more is no frame."""
WINDOW = 65536
"""Bytes that may be under way, each way, of an input or a stream."""
_HEADER = struct.Struct("<IHHI")
_NUMBER = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_TOLERATE = 1


class Op(IntEnum):
    """What a frame is: a command to the agent, or (from ANSWER on) what the agent says."""

    HELLO = 1
    LOAD = 2
    MKDIR = 3
    MKNOD = 4
    SYMLINK = 5
    WRITE = 6
    READ = 7
    MOUNT = 8
    UNMOUNT = 9
    BIND = 10
    ENSURE = 11
    UNSTUB = 12
    COPY_OWNER = 13
    PARTITION = 14
    SET_CLOCK = 15
    GET_CLOCK = 16
    RESEED = 17
    HOSTNAME = 18
    LINK_UP = 19
    SPAWN = 20
    SIGNAL = 21
    STATFS = 22
    CHANGES = 23
    KILL_ALL = 24
    SYNC = 25
    CLEAR = 26
    ATTACH = 35
    INPUT = 36
    RESIZE = 37
    LISTEN = 38
    DATA = 39
    TAKEN = 40
    CLOSE = 41
    BIND_FROM = 27
    OWN = 28
    COPY_TREE = 29
    RELEASE = 30
    SET_MAC = 45
    HOLD = 46
    RESUME = 47
    CONNECT = 48
    JOIN = 49
    HOLD_CLOCK = 55
    PREPARE = 56
    ANSWER = 100
    OUTPUT = 101
    EXIT = 102
    TOOK = 103
    OPENED = 104
    RECEIVED = 105
    GIVEN = 106
    CLOSED = 107


class ProtocolError(Exception):
    """What came is no frame, or not the values expected."""


Value = int | str | bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    op: int
    """An Op; another number is passed on as it is, for the reader to refuse."""
    tag: int
    payload: bytes = b""
    tolerate: bool = False
    """A command whose failure does not stop the commands after it."""

    def encode(self) -> bytes:
        """The frame as bytes."""
        return _HEADER.pack(len(self.payload), self.op, _TOLERATE * self.tolerate, self.tag) + self.payload


@dataclass(frozen=True, slots=True)
class Command:
    """What the agent is to do; it becomes a frame when it gets its tag."""

    op: Op
    values: tuple[Value, ...] = ()
    tolerate: bool = False

    def frame(self, tag: int) -> Frame:
        """The command as a frame."""
        return Frame(self.op, tag, pack(self.values), self.tolerate)


def command(op: Op, *values: Value, tolerate: bool = False) -> Command:
    """A command, in short."""
    return Command(op, values, tolerate)


def texts(items: Sequence[str | bytes]) -> tuple[Value, ...]:
    """A row of texts, as the agent's arg_texts reads it: their number, then each."""
    return (len(items), *items)


def pack(values: Iterable[Value]) -> bytes:
    """Values as a payload; text is UTF-8, with surrogates for other bytes (PEP 383)."""
    parts: list[bytes] = []
    for value in values:
        if isinstance(value, int):
            parts.append(_NUMBER.pack(value))
        else:
            raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
            parts += (_LENGTH.pack(len(raw)), raw, b"\0")
    return b"".join(parts)


class Values:
    """Takes the values out of a payload, in order. Raises ProtocolError when they are not there."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    @property
    def empty(self) -> bool:
        """Whether there is no further value."""
        return self._at == len(self._payload)

    def number(self) -> int:
        """The next value, a number."""
        return int(_NUMBER.unpack(self._take(8))[0])

    def data(self) -> bytes:
        """The next value, bytes."""
        (length,) = _LENGTH.unpack(self._take(4))
        data = self._take(length)
        if self._take(1) != b"\0":
            raise ProtocolError("a text without its end")
        return data

    def text(self) -> str:
        """The next value, text."""
        return self.data().decode("utf-8", "surrogateescape")

    def _take(self, length: int) -> bytes:
        part = self._payload[self._at : self._at + length]
        if len(part) < length:
            raise ProtocolError("a payload that ends too early")
        self._at += length
        return part


class Decoder:
    """Makes frames out of bytes, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete with `data`. Raises ProtocolError."""
        self._buffer += data
        while len(self._buffer) >= _HEADER.size:
            length, op, flags, tag = _HEADER.unpack_from(self._buffer)
            if length > FRAME_LIMIT:
                raise ProtocolError(f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            yield Frame(op, tag, payload, bool(flags & _TOLERATE))
