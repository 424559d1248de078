"""Names: the guest's questions read, and answers from what the host itself knows.

Source: RFC 1035.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable
from enum import IntEnum

from engine.vm.network.addresses import is_special, parse_address
from machinefile.values import dataclass

_HEADER = struct.Struct(">HHHHHH")
_LABEL = re.compile(rb"[A-Za-z0-9_-]{1,63}")
_INTERNET = 1
_TTL = 30
"""Seconds that an answer holds good: steps are short, and the host's resolver has the real time."""
_MOST_ADDRESSES = 24
"""So that an answer fits into the 512 bytes that every resolver takes."""


class Kind(IntEnum):
    """Types of records that are answered here."""

    A = 1
    AAAA = 28


class Code(IntEnum):
    """How a question was answered."""

    FOUND = 0
    FAILED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a guest."""

    id: int
    flags: int
    name: str
    """In lower case, without the final dot."""
    kind: int
    raw: bytes
    """The question section, which an answer repeats letter for letter."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a name."""

    code: Code
    addresses: tuple[int, ...] = ()
    """IPv4."""


Lookup = Callable[[str], Answer]
"""Asks for a name; may take its time, and is called from threads."""


def read_question(payload: bytes) -> Question | None:
    """The one question of a query; None for anything else."""
    if len(payload) < _HEADER.size:
        return None
    number, flags, questions, answers, _, _ = _HEADER.unpack_from(payload)
    if flags & 0xF800 or questions != 1 or answers:  # a response, or another operation than a query
        return None
    labels: list[bytes] = []
    at = _HEADER.size
    while at < len(payload) and (length := payload[at]):
        label = payload[at + 1 : at + 1 + length]
        if len(label) < length or not _LABEL.fullmatch(label):
            return None
        labels.append(label)
        at += 1 + length
    if not labels or at + 5 > len(payload) or at - _HEADER.size > 254:
        return None
    kind, family = struct.unpack_from(">HH", payload, at + 1)
    if family != _INTERNET:
        return None
    return Question(number, flags, b".".join(labels).decode().lower(), kind, payload[_HEADER.size : at + 5])


def write_answer(question: Question, answer: Answer) -> bytes:
    """The response to a question; addresses go to a question for them alone."""
    addresses = answer.addresses[:_MOST_ADDRESSES] if question.kind == Kind.A else ()
    flags = 0x8080 | question.flags & 0x0100 | answer.code  # a response, recursion to be had, and as it was desired
    records = b"".join(struct.pack(">HHHIHI", 0xC00C, Kind.A, _INTERNET, _TTL, 4, address) for address in addresses)
    return _HEADER.pack(question.id, flags, 1, len(addresses), 0, 0) + question.raw + records


def ask_host(name: str) -> Answer:
    """What this host's own resolver says, /etc/hosts and all. An address that is special in a guest is left out."""
    try:
        found = socket.getaddrinfo(name.encode(), None, socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror as error:
        unknown = error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)
        return Answer(Code.UNKNOWN if unknown else Code.FAILED)
    except (OSError, UnicodeError):
        return Answer(Code.FAILED)
    addresses = dict.fromkeys(parse_address(str(where[0])) for *_, where in found)
    return Answer(Code.FOUND, tuple(one for one in addresses if one is not None and not is_special(one)))
