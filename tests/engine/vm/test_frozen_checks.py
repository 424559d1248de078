"""Commands run beside a program that is made ready, with an agent that is a script."""

from __future__ import annotations

import socket
import threading

import pytest

from engine.vm.channel import Channel
from engine.vm.execution import Execution
from engine.vm.protocol import Decoder, Frame, Op, pack
from engine.vm.starting import Starting


def agent(end: socket.socket, *, fails: bool) -> None:
    """Answers every command; a process says hello and ends with 3, or cannot be started."""
    decoder = Decoder()
    while data := end.recv(1 << 16):
        for frame in decoder.feed(data):
            bad = fails and frame.op in (Op.JOIN, Op.SPAWN)
            end.sendall(Frame(Op.ANSWER, frame.tag, pack((3, "gone") if bad else (0,))).encode())
            if frame.op == Op.SPAWN and not bad:
                end.sendall(Frame(Op.OUTPUT, frame.tag, pack((1, b"hello"))).encode())
                end.sendall(Frame(Op.EXIT, frame.tag, pack((3 << 8,))).encode())


@pytest.mark.parametrize("fails", [False, True])
def test_a_check_leaves_nothing_behind_in_the_channel(fails: bool) -> None:
    host, guest = socket.socketpair()
    with host, guest:
        thread = threading.Thread(target=agent, args=(guest,), kwargs={"fails": fails})
        thread.start()
        try:
            channel = Channel(host, lambda: None)
            for _ in range(3):
                result, said = Starting(channel, Execution(disks=(), argv=("serve",), environment=()), 1).check(
                    ("probe",), 10
                )
                assert (result and result.code, said) == ((None, b"") if fails else (3, b"hello"))
                assert not channel.taps
        finally:
            host.shutdown(socket.SHUT_RDWR)
            thread.join(10)
