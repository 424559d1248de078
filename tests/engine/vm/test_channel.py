"""The host's end of the conversation with the agent, with a guest that does as the test wants."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.vm import channel as channel_module
from engine.vm.channel import Channel, SilentGuestError
from engine.vm.forward import Forwarder
from engine.vm.protocol import Command, Decoder, Frame, Op, ProtocolError, Value, command, pack
from engine.vm.socketmount import SocketMount


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The host's and the guest's."""
    host, guest = socket.socketpair()
    with host, guest:
        yield host, guest


Ends = tuple[socket.socket, socket.socket]


def say(guest: socket.socket, op: Op, tag: int, *values: Value) -> None:
    """The guest says something."""
    guest.sendall(Frame(op, tag, pack(values)).encode())


def spawn(channel: Channel, guest: socket.socket) -> int:
    """Starts a process; its tag."""
    posted = channel.post([command(Op.SPAWN)])
    say(guest, Op.ANSWER, posted[0][0], 0, 7)
    channel.collect(posted, 10)
    return posted[0][0]


def test_a_pause_of_ours_is_no_silence_of_the_guest(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    host, guest = ends
    monkeypatch.setattr(channel_module, "_PULSE", 0.05)
    monkeypatch.setattr(channel_module, "_PATIENCE", 0.3)
    monkeypatch.setattr(channel_module, "_LONGEST_LOOK", 0.1)
    channel = Channel(host, lambda: None)
    process = spawn(channel, guest)
    decoder = Decoder()

    def slow(_: int, data: bytes) -> None:
        """Who reads the output stops for longer than the guest may be silent, before and while it is asked."""
        time.sleep(0.5)
        guest.setblocking(False)
        try:
            asked = [frame for frame in decoder.feed(guest.recv(4096)) if frame.op == Op.GET_CLOCK]
        except BlockingIOError:
            asked = []
        guest.setblocking(True)
        if asked:
            say(guest, Op.ANSWER, asked[0].tag, 0, 1, 1)
            say(guest, Op.EXIT, process, 0)
        else:
            say(guest, Op.OUTPUT, process, 1, b"x")

    channel.on_output = slow
    say(guest, Op.OUTPUT, process, 1, b"x")
    assert channel.wait_exit(process) == 0


def test_silence_is_noticed(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_PULSE", 0.05)
    monkeypatch.setattr(channel_module, "_PATIENCE", 0.2)
    channel = Channel(ends[0], lambda: None)
    with pytest.raises(SilentGuestError):
        channel.wait_exit(spawn(channel, ends[1]))


@pytest.mark.parametrize("error", [4096, 2**31, 2**64 - 1])
def test_an_errno_that_is_none_is_refused(ends: Ends, error: int) -> None:
    channel = Channel(ends[0], lambda: None)
    posted = channel.post([command(Op.SYNC)])
    say(ends[1], Op.ANSWER, posted[0][0], error, b"x")
    with pytest.raises(ProtocolError):
        channel.collect(posted, 10)


@pytest.mark.parametrize("tag", [0, 2, 1 << 20])
def test_only_what_runs_can_end(ends: Ends, tag: int) -> None:
    channel = Channel(ends[0], lambda: None)
    process = spawn(channel, ends[1])
    say(ends[1], Op.EXIT, tag, 0)
    with pytest.raises(ProtocolError):
        channel.wait_exit(process)


def test_what_runs_ends_once(ends: Ends) -> None:
    channel = Channel(ends[0], lambda: None)
    process = spawn(channel, ends[1])
    say(ends[1], Op.EXIT, process, 256)
    assert channel.wait_exit(process) == 256
    say(ends[1], Op.EXIT, process, 0)
    with pytest.raises(ProtocolError):
        channel.pause(10)


def test_what_was_started_before_a_freeze_ends_whenever_it_does(ends: Ends) -> None:
    channel = Channel(ends[0], lambda: None, first_tag=100)
    say(ends[1], Op.EXIT, 30, 256)
    channel.pause(0.1)
    assert channel.wait_exit(30) == 256


def test_a_guest_that_takes_nothing_fills_no_memory(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_MOST_TOLD", 1000)
    channel = Channel(ends[0], lambda: None)
    channel.post([Command(Op.WRITE, (b"x" * 2000,))])  # what we want of it does not count
    for _ in range(50):  # of 20 bytes each
        channel.tell(Op.CLOSE, 1)
    with pytest.raises(ProtocolError):
        channel.tell(Op.CLOSE, 1)


def test_a_guest_that_answers_nothing_fills_no_memory(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_MOST_UNHEARD", 3)
    channel = Channel(ends[0], lambda: None)
    for _ in range(3):
        channel.tell(Op.CLOSE, 1)
        channel.pause(0.01)
        ends[1].recv(4096)
    with pytest.raises(ProtocolError):
        channel.tell(Op.CLOSE, 1)


def test_more_connections_than_there_can_be_are_refused(ends: Ends, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(100)
        channel = Channel(ends[0], lambda: None)
        with Forwarder((SocketMount("/s", str(tmp_path / "s")),), channel) as forwarder:
            channel.accompany(forwarder)
            for number in range(64):
                say(ends[1], Op.OPENED, 0, 0, number)
            channel.pause(0.2)
            say(ends[1], Op.OPENED, 0, 0, 64)
            with pytest.raises(ProtocolError):
                channel.pause(10)
