"""A machine whose program has been started, while it is waited for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from engine.vm import guest
from engine.vm.channel import Channel, GuestFailureError
from engine.vm.execution import Execution, Result, result_of
from engine.vm.protocol import Op, command
from machinefile.values import dataclass

_TIMEOUT = 60.0


@dataclass(slots=True)
class Starting:
    """A machine whose program has been started: what waits for it to be ready asks here."""

    channel: Channel
    execution: Execution
    tag: int

    @property
    def ended(self) -> Result | None:
        """How the program ended, if it did."""
        status = self.channel.exited(self.tag)
        return None if status is None else result_of(status)

    def accepts(self, port: int) -> bool:
        """Whether somebody accepts connections on a TCP port of 127.0.0.1 in it."""
        (answer,) = self.channel.call([command(Op.CONNECT, port)], _TIMEOUT)
        return answer.number() == 0

    def check(self, argv: Sequence[str], timeout: float) -> tuple[Result | None, bytes]:
        """Run a command beside the program, as the same user in the same namespaces; None when it took longer than
        `timeout` seconds, and was killed. Gives what it wrote too, the last of it."""
        said = bytearray()

        def hear(stream: int, data: bytes) -> None:
            said.extend(data)
            del said[:-4096]

        spawn = guest.spawn_beside(replace(self.execution, argv=tuple(argv)))
        posted = self.channel.post([command(Op.JOIN, self.tag), spawn])
        tag = posted[1][0]
        self.channel.taps[tag] = hear
        try:
            try:
                self.channel.collect(posted, _TIMEOUT)
            except GuestFailureError:
                self.channel.call([command(Op.CLEAR)], _TIMEOUT)
                return None, bytes(said)  # the program ended, and its namespaces with it
            deadline = time.monotonic() + timeout
            late = False
            while (status := self.channel.exited(tag)) is None:
                if not late and time.monotonic() > deadline:
                    late = True
                    self.channel.call([command(Op.SIGNAL, tag, 9, tolerate=True)], _TIMEOUT)
                self.channel.pause(0.01)
            self.channel.wait_exit(tag)
            return (None if late else result_of(status)), bytes(said)
        finally:
            del self.channel.taps[tag]

    def pause(self, seconds: float) -> None:
        """Let it work."""
        self.channel.pause(seconds)
