"""The pump between QEMU's sockets and the gate, with a test in QEMU's place."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from frames import addresses_in, assert_sound, query, tcp_frame, udp_frame

from engine.vm.network import pump as pump_module
from engine.vm.network.dns import Answer, Code
from engine.vm.network.gate import Gate
from engine.vm.network.pump import Wires, open_wires
from engine.vm.network.rules import EgressPolicy, parse_rule

ELSEWHERE = 0xC6336407
"""198.51.100.7"""


def framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


def read(end: socket.socket, count: int = 1) -> list[bytes]:
    """That many frames."""
    end.settimeout(10)
    frames = []
    for _ in range(count):
        length = int.from_bytes(end.recv(4, socket.MSG_WAITALL), "big")
        frames.append(end.recv(length, socket.MSG_WAITALL))
    return frames


class Names:
    """A resolver that waits for `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    def __call__(self, name: str) -> Answer:
        self.asked.append(name)
        assert self.go.wait(10)
        return Answer(Code.FOUND, (ELSEWHERE,))


@pytest.fixture
def names() -> Names:
    """See Names."""
    return Names()


@pytest.fixture
def wires(names: Names) -> Iterator[Wires]:
    """A pump that lets through what leads to a.example, port 80."""
    with open_wires(Gate(EgressPolicy((parse_rule("a.example:80"),))), names) as made:
        yield made
        names.go.set()


def test_frames_pass_or_are_answered_however_they_are_cut(wires: Wires, names: Names) -> None:
    names.go.set()
    wires.outward.sendall(framed(udp_frame("10.0.2.3", 53, query("a.example"))))
    (answer,) = read(wires.back)
    assert addresses_in(answer) == (0, ["198.51.100.7"])
    good, bad = tcp_frame("198.51.100.7", 80), tcp_frame("198.51.100.7", 81)
    sent = framed(good, bad, good)
    for byte in sent[:80]:
        wires.outward.sendall(bytes([byte]))
    wires.outward.sendall(sent[80:])
    assert read(wires.onward, 2) == [good, good]
    (reset,) = read(wires.back)
    assert_sound(reset)


def test_one_question_is_asked_once_and_nobody_waits_for_it(wires: Wires, names: Names) -> None:
    for kind in (1, 28, 1):
        wires.outward.sendall(framed(udp_frame("10.0.2.3", 53, query("a.example", kind))))
    wires.outward.sendall(framed(tcp_frame("198.51.100.7", 80)))
    (reset,) = read(wires.back)
    assert_sound(reset)
    names.go.set()
    assert [len(addresses_in(answer)[1]) for answer in read(wires.back, 3)] == [1, 0, 1]
    wires.outward.sendall(framed(udp_frame("10.0.2.3", 53, query("a.example"))))
    assert addresses_in(read(wires.back)[0])[1]
    assert names.asked == ["a.example"]


def test_one_machine_leaves_lookups_to_the_others(names: Names) -> None:
    with open_wires(Gate(EgressPolicy()), names) as wires:
        for number in range(40):
            wires.outward.sendall(framed(udp_frame("10.0.2.3", 53, query(f"n{number}.example"))))
        wires.outward.sendall(framed(tcp_frame("10.0.2.2", 22)))
        assert_sound(read(wires.back)[0])  # all that came before has been judged
        asked = len(names.asked)
        names.go.set()
        read(wires.back, asked)
    assert asked == 8


def test_qemu_that_takes_nothing_cannot_stop_the_pump(wires: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump_module, "_MOST_UNSENT", 1 << 16)
    wires.outward.settimeout(10)
    for _ in range(300):
        wires.outward.sendall(framed(*[tcp_frame("198.51.100.7", 81)] * 40))
    assert_sound(read(wires.back)[0])


def test_what_is_no_frame_ends_the_pump_and_closes_the_network(wires: Wires) -> None:
    wires.outward.sendall(b"\xff" * 8)
    wires.onward.settimeout(10)
    assert wires.onward.recv(1) == b""
    assert wires.back.recv(1) == b""
    assert isinstance(wires.pump.failure, ValueError)


def test_it_ends_with_qemu_and_without(names: Names) -> None:
    before = threading.active_count()
    with open_wires(Gate(EgressPolicy()), names) as wires:
        for end in wires.ends:
            end.close()
    with open_wires(Gate(EgressPolicy()), names) as wires:
        pass
    assert wires.pump.failure is None
    assert threading.active_count() == before
