"""Stand-ins for microVMs, for tests of what is built on them.

`FakeSandbox` takes the place of the whole; `FakeHypervisor` takes QEMU's place below the real sandbox and speaks
the agent's protocol.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from weakref import finalize

from engine.vm.accelerator import Accelerator
from engine.vm.execution import Ending, Execution, Outlook, Output, Result
from engine.vm.hypervisor import Attachments, Autopsy, Template
from engine.vm.protocol import PORT_NAME, PROTOCOL_VERSION, Decoder, Frame, Op, Value, pack
from machinefile.errors import InterruptedBuildError
from machinefile.steps import MachineShape
from machinefile.values import dataclass

Behaviour = Callable[[Execution], tuple[int, bytes, bytes]]
"""What a command does: its exit code, its standard output, and its changes as a change stream."""


class FakeSandbox:
    """Runs commands by calling a function; remembers them in `executions`."""

    def __init__(self, behave: Behaviour) -> None:
        self._behave = behave
        self.executions: list[Execution] = []
        self.expected: list[Outlook] = []

    @property
    def starts(self) -> int:
        """How many commands were run."""
        return len(self.executions)

    @contextmanager
    def execute(self, execution: Execution, output: Output, cancelled: threading.Event) -> Iterator[Result]:
        """Run a command. Raises InterruptedBuildError when `cancelled` is set, before and after it."""
        if cancelled.is_set():
            raise InterruptedBuildError
        self.executions.append(execution)
        code, written, changes = self._behave(execution)
        if written:
            output(1, written)
        if cancelled.is_set():
            raise InterruptedBuildError
        wanted = code == 0 and execution.capture
        yield Result(Ending.EXITED, code, io.BytesIO(changes) if wanted else None, caches_whole=True)

    def merge(self, newer: Path, into: Path, shape: MachineShape, cancelled: threading.Event) -> None:
        """What the newer one holds is put behind what the other holds."""
        with into.open("ab") as out:
            out.write(newer.read_bytes())

    def expect(self, outlook: Outlook, cancelled: threading.Event) -> None:
        """Remember it."""
        self.expected.append(outlook)

    def forget(self) -> None:
        """Nothing waits here."""


class Life(Enum):
    """How a fake machine behaves."""

    WELL = "well"
    SILENT = "silent"
    """It never answers."""
    STILLBORN = "stillborn"
    """It ends before it answers."""
    DIES = "dies"
    """It ends in the middle of the command."""
    STUCK = "stuck"
    """The command starts, and then nothing comes any more."""


@dataclass(frozen=True, slots=True)
class FakeCommand:
    """What the command in a fake machine does."""

    status: int = 0
    """A wait status: the exit code times 256, or a signal."""
    output: Sequence[tuple[int, bytes]] = ()
    changes: bytes = b""
    vmstat: bytes = b"oom_kill 0\n"
    free_blocks: int = 1 << 20
    console: str = ""


class FakeMachine:
    """Obeys the agent's protocol in a thread."""

    def __init__(self, life: Life, does: FakeCommand, folder: Path) -> None:
        self._life = life
        self._does = does
        self._folder = folder
        self._alive = life is not Life.STILLBORN
        self._host, self._guest = socket.socketpair()
        self.commands: list[Frame] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def agent(self) -> socket.socket:
        """The host's end."""
        return self._host

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._alive

    def autopsy(self) -> Autopsy:
        """What the command's console says."""
        return Autopsy("fake errors", self._does.console)

    def stop(self) -> None:
        """End it."""
        self._guest.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)
        self._host.close()
        self._guest.close()

    def _serve(self) -> None:
        decoder = Decoder()
        with suppress(BrokenPipeError):  # a real one, too, may be ended while it answers
            while data := self._guest.recv(65536):
                for frame in decoder.feed(data):
                    self.commands.append(frame)
                    self._live(frame)

    def _live(self, frame: Frame) -> None:
        early = not any(earlier.op == Op.SPAWN for earlier in self.commands)
        if self._life is Life.WELL or (self._life in (Life.DIES, Life.STUCK) and early):
            self._obey(frame)
        elif self._life is Life.STUCK and frame.op == Op.SPAWN:
            self._say(Op.ANSWER, frame.tag, 0, 7)
        elif self._life is Life.DIES:
            self._alive = False

    def _obey(self, frame: Frame) -> None:
        values: dict[int, tuple[Value, ...]] = {
            Op.HELLO: (PROTOCOL_VERSION, PORT_NAME),
            Op.ENSURE: (0,),
            Op.READ: (self._does.vmstat,),
            Op.STATFS: (4096, 1 << 20, self._does.free_blocks, 1 << 20, 1 << 20),
            Op.SPAWN: (7,),
            Op.CHANGES: (len(self._does.changes), 0),
        }
        if frame.op == Op.CHANGES:
            (self._folder / "changes").write_bytes(self._does.changes)
        self._say(Op.ANSWER, frame.tag, 0, *values.get(frame.op, ()))
        if frame.op == Op.SPAWN:
            for stream, data in self._does.output:
                self._say(Op.OUTPUT, frame.tag, stream, data)
            self._say(Op.EXIT, frame.tag, self._does.status)

    def _say(self, op: Op, tag: int, *values: Value) -> None:
        self._guest.sendall(Frame(op, tag, pack(values)).encode())


class FakeHypervisor:
    """Restores fake machines: the first lives as the first of `lives` says, and so on, then all live well."""

    def __init__(self, lives: Sequence[Life] = (), does: FakeCommand | None = None) -> None:
        self._lives = list(lives)
        self._does = does or FakeCommand()
        self.machines: list[FakeMachine] = []
        self.attachments: list[Attachments] = []
        self._folder = Path(mkdtemp(prefix="mbuild-fake-"))
        finalize(self, rmtree, self._folder, ignore_errors=True)

    def template(self, shape: MachineShape, cancelled: threading.Event) -> Template:
        """A template of nothing but a disk."""
        template = Template(self._folder, shape, Accelerator.TCG)
        template.disk.write_bytes(b"")
        return template

    @contextmanager
    def restore(self, template: Template, attachments: Attachments) -> Iterator[FakeMachine]:
        """Start the next machine."""
        life = self._lives.pop(0) if self._lives else Life.WELL
        machine = FakeMachine(life, self._does, attachments.folder)
        self.machines.append(machine)
        self.attachments.append(attachments)
        try:
            yield machine
        finally:
            machine.stop()
