"""Machines with a program in them: made ready, frozen with all they hold, and restored any number of times.

    FOLDER/ram          the guest's memory, sparse
           state        its devices
           kernel       what it booted from, which a restored machine's hardware must be the same with
           initrd
           cmdline
           disk         what was written to its disk, sparse
           layers       squashfs after squashfs, lowest first, after some zeros; missing where there are none

Frozen are only machines whose processes stand still (the freezer of control groups): a restored one is made to differ
from its siblings before any of its processes runs again.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from engine.vm import guest
from engine.vm.accelerator import Accelerator
from engine.vm.channel import Channel, GuestFailureError, GuestGoneError, SilentGuestError
from engine.vm.disks import LEAD, clone, lay_out, scratch_image
from engine.vm.execution import Ending, Execution, Output, Result
from engine.vm.gates import gate_of, usual_gate
from engine.vm.guest import DiskMap
from engine.vm.hypervisor import Autopsy, Template
from engine.vm.kernel import LATE_MODULES
from engine.vm.network.gate import Gate
from engine.vm.network.pump import Wires, open_wires
from engine.vm.portforward import PortForward
from engine.vm.protocol import Command, Op, ProtocolError, command
from engine.vm.qemu import QemuHypervisor, QemuMachine, start
from engine.vm.qemu_argv import MachineSpec
from engine.vm.qmp import Qmp, QmpError
from engine.vm.runfolder import run_folder, sweep
from engine.vm.template import dig_holes, greet, watcher, write_state
from machinefile.errors import HostError, InterruptedBuildError
from machinefile.steps import MachineShape
from machinefile.values import dataclass

_TRIES = 3
_ANSWER_TIMEOUT = 5.0
_SET_UP_TIMEOUT = 60.0
_ASKED_IN_ADVANCE = 3
"""The answers that a restored machine's QMP session begins with: see qemu.start."""
MACHINE_ID = "/etc/machine-id"
CHANGES = 1 << 20
"""Bytes after the scratch file system, for a partition that only steps use."""
_FIRST_TAG = 1 << 16
"""Where the tags begin of who talks to a restored machine; the first conversation stays below."""
ENTRIES = ("ram", "state", "kernel", "initrd", "cmdline", "disk", "layers")
"""The files that a machine is."""


class MachineId(Enum):
    """Where a machine's /etc/machine-id is, which each copy gets a fresh one of."""

    NONE = "none"
    ROOT = "root"
    """Among the files of its root."""
    LAID_OVER = "laid-over"
    """In the guest's memory, laid over the image's file: writing it costs no disk."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A machine on disk."""

    folder: Path
    shape: MachineShape
    accelerator: Accelerator
    layers: tuple[int, ...]
    """Their lengths in bytes, lowest first."""
    tag: int
    """Of the agent's SPAWN whose process it holds."""
    machine_id: MachineId

    def parts(self) -> tuple[str, ...]:
        """The names of its files."""
        return ENTRIES if self.layers else tuple(name for name in ENTRIES if name != "layers")

    def unpack_layers(self, folder: Path) -> tuple[Path, ...]:
        """The layers as files of their own in a folder. Raises HostError (`machine-unwritable`)."""
        paths = []
        with disk_errors(folder):
            for number, region in enumerate(lay_out(self.layers, LEAD)):
                paths.append(folder / f"layer-{number}.squashfs")
                with (self.folder / "layers").open("rb") as source, paths[-1].open("wb") as target:
                    _copy_range(source, region.start, target, region.length)
        return tuple(paths)

    def spec(self, qemu: str, writable: Path, *, share: bool) -> MachineSpec:
        """Its QEMU process: with `share` one that is being made, else one that is restored. Raises OSError."""
        return MachineSpec(
            qemu=qemu,
            accelerator=self.accelerator,
            cpus=self.shape.cpus,
            memory=self.shape.memory,
            ram=str(self.folder / "ram"),
            share=share,
            kernel=str(self.folder / "kernel"),
            initrd=str(self.folder / "initrd"),
            # A restored machine boots nothing, and what others made is read no more than it must be.
            cmdline=(self.folder / "cmdline").read_text() if share else "",
            qmp_fd=-1,
            agent_fd=-1,
            layers=str(self.folder / "layers") if self.layers else None,
            writable=str(writable),
            raw=True,
        )


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
        return None if status is None else read_status(status)

    def accepts(self, port: int) -> bool:
        """Whether somebody accepts connections on a TCP port of 127.0.0.1 in it."""
        (answer,) = self.channel.call([command(Op.CONNECT, port)], _SET_UP_TIMEOUT)
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
                self.channel.collect(posted, _SET_UP_TIMEOUT)
            except GuestFailureError:
                self.channel.call([command(Op.CLEAR)], _SET_UP_TIMEOUT)
                return None, bytes(said)  # the program ended, and its namespaces with it
            deadline = time.monotonic() + timeout
            late = False
            while (status := self.channel.exited(tag)) is None:
                if not late and time.monotonic() > deadline:
                    late = True
                    self.channel.call([command(Op.SIGNAL, tag, 9, tolerate=True)], _SET_UP_TIMEOUT)
                self.channel.pause(0.01)
            self.channel.wait_exit(tag)
            return (None if late else read_status(status)), bytes(said)
        finally:
            del self.channel.taps[tag]

    def pause(self, seconds: float) -> None:
        """Let it work."""
        self.channel.pause(seconds)


def read_status(status: int) -> Result:
    """A wait status in words."""
    if status & 0x7F:
        return Result(Ending.SIGNALLED, 128 + (status & 0x7F))
    return Result(Ending.EXITED, status >> 8 & 0xFF)


@dataclass(frozen=True, slots=True)
class Freezer:
    """Makes machines, in `vm_dir`'s care while they run."""

    hypervisor: QemuHypervisor
    vm_dir: Path

    def freeze(
        self,
        execution: Execution,
        wait: Callable[[Starting], None],
        folder: Path,
        output: Output,
        cancelled: threading.Event,
    ) -> Frozen:
        """Start a command, let `wait` return when it is ready, and freeze it all into `folder`, which is empty.

        Raises HostError (`vm-silent`, `vm-setup`, `vm-died`, `machine-unfrozen`, those of templates and disks),
        InterruptedBuildError, and what `wait` raises.
        """
        sweep(self.vm_dir / "run")
        template = self.hypervisor.template(execution.shape, cancelled)
        frozen = Frozen(folder, execution.shape, template.accelerator, _lengths(execution.disks), 0, MachineId.NONE)
        stalls: list[str] = []
        while len(stalls) < _TRIES:
            try:
                with disk_errors(folder):
                    self._lay_out(frozen, template, execution.disks)
                return self._run(frozen, template, execution, wait, output, cancelled)
            except _StalledError as error:
                stalls.append(str(error))
        raise _silent(stalls[-1])

    def _lay_out(self, frozen: Frozen, template: Template, layers: Sequence[Path]) -> None:
        folder = frozen.folder
        clone(template.ram, folder / "ram")
        clone(self.hypervisor.kernel.image, folder / "kernel")
        clone(template.initrd, folder / "initrd")
        (folder / "cmdline").write_text(template.cmdline)
        if layers:
            with (folder / "layers").open("wb") as whole:
                whole.truncate(LEAD)
                whole.seek(LEAD)
                for path, length in zip(layers, frozen.layers, strict=True):
                    with path.open("rb") as layer:
                        _copy_range(layer, 0, whole, length)
        scratch = scratch_image(self.vm_dir / "scratch", frozen.shape.disk)
        clone(scratch, folder / "disk")
        with (folder / "disk").open("r+b") as disk:
            disk.truncate(scratch.stat().st_size + CHANGES)

    def _run(
        self,
        frozen: Frozen,
        template: Template,
        execution: Execution,
        wait: Callable[[Starting], None],
        output: Output,
        cancelled: threading.Event,
    ) -> Frozen:
        with run_folder(self.vm_dir / "run") as private:
            disk = frozen.folder / "disk"
            scratch, changes = lay_out([disk.stat().st_size - CHANGES, CHANGES])
            where = DiskMap(lay_out(frozen.layers, LEAD), scratch, changes)
            spec = frozen.spec(self.hypervisor.qemu.program, disk, share=True)
            with (
                _wired(gate_of(execution)) as wires,
                start(spec, private, state=template.state, wires=wires) as machine,
            ):
                watch = watcher(machine, cancelled)
                channel = Channel(machine.agent, watch)
                _set_up(machine, channel, execution, where)
                with _explained(machine, "its program was made ready"):
                    channel.on_output = output
                    posted = channel.post([guest.spawn(execution)])
                    channel.collect(posted, _SET_UP_TIMEOUT)
                    tag = posted[0][0]
                    wait(Starting(channel, execution, tag))
                    has_id = _hold_still(channel, execution)
                    qmp = Qmp(machine.qmp, watch)
                    qmp.skip(_ASKED_IN_ADVANCE, timeout=10)
                    write_state(qmp, frozen.folder / "state")
            with disk_errors(frozen.folder):
                dig_holes(frozen.folder / "ram")
        return replace(frozen, tag=tag, machine_id=has_id)


def _set_up(machine: QemuMachine, channel: Channel, execution: Execution, disks: DiskMap) -> None:
    """Everything up to the program's start. Raises _StalledError when the machine does not come to life."""
    furnishing = [*guest.furnish(execution)[0], guest.enter(execution)]
    try:
        greet(channel, _ANSWER_TIMEOUT)
        rows = [*guest.refresh(guest.seed(), time.time_ns()), *guest.attach(disks, LATE_MODULES), *furnishing]
        channel.call(rows, _SET_UP_TIMEOUT)
    except (SilentGuestError, GuestGoneError) as error:
        reason = "it does not answer" if isinstance(error, SilentGuestError) else "it ended by itself"
        raise _StalledError(f"{reason}\n{machine.autopsy()}") from error
    except (GuestFailureError, ProtocolError) as error:
        raise _set_up_failure(error, machine.autopsy()) from error


def _hold_still(channel: Channel, execution: Execution) -> MachineId:
    """Stop all processes and take what they have said; gives where the machine id is."""
    rows = [command(Op.SYNC), command(Op.HOLD), command(Op.READ, guest.ROOT + MACHINE_ID, 64, tolerate=True)]
    try:
        *_, answer = channel.call(rows, _SET_UP_TIMEOUT)
    except GuestFailureError as error:
        raise QmpError(str(error)) from error
    # The agent passes on a pipe's worth each time it has answered: nothing is left in them after this.
    for _ in range(2):
        channel.call([command(Op.HELLO)], _SET_UP_TIMEOUT)
    if any(file.path == MACHINE_ID for file in execution.files[:1]):
        return MachineId.LAID_OVER
    return MachineId.NONE if answer.empty else MachineId.ROOT


@contextmanager
def _wired(gate: Gate | None) -> Iterator[Wires | None]:
    if gate is None:
        yield None
        return
    with open_wires(gate) as wires:
        yield wires


class _StalledError(Exception):
    """A machine did not come to life; nothing of the user ran in it."""


def _silent(last: str) -> HostError:
    return HostError(
        f"a microVM did not come to life in {_TRIES} tries: {last}", code="vm-silent", hint="run: mbuild doctor"
    )


def _set_up_failure(error: Exception, autopsy: Autopsy) -> HostError:
    return HostError(
        f"the microVM cannot be set up: {error}\n{autopsy}",
        code="vm-setup",
        hint="a layer may be damaged: build again with --no-cache",
    )


@contextmanager
def _explained(machine: QemuMachine, when: str) -> Iterator[None]:
    """Turns what goes wrong with a machine into an error that says what it left behind."""
    try:
        yield
    except (GuestGoneError, SilentGuestError, GuestFailureError, ProtocolError, QmpError) as error:
        reasons = {SilentGuestError: "it does not answer", GuestGoneError: "it ended by itself"}
        reason = reasons.get(type(error), str(error))
        autopsy = machine.autopsy()
        hint = "run it again"
        if autopsy.out_of_memory:
            hint = "give it more memory with MACHINE memory="
        raise HostError(
            f"the microVM broke down while {when}: {reason}\n{autopsy}", code="vm-died", hint=hint
        ) from error


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what goes wrong with files that are written to a folder into HostError (`machine-unwritable`)."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"the machine cannot be written to {folder}: {error.strerror or error}",
            code="machine-unwritable",
            hint="free space there, or choose another folder",
        ) from error


def _lengths(layers: Sequence[Path]) -> tuple[int, ...]:
    return tuple(path.stat().st_size for path in layers)


def _copy_range(source: BinaryIO, start: int, target: BinaryIO, length: int) -> None:
    """Append bytes of a file to another."""
    source.seek(start)
    while length:
        data = source.read(min(length, 1 << 20))
        if not data:
            raise OSError(errno.EIO, "a layer is shorter than it was")
        target.write(data)
        length -= len(data)


@dataclass(slots=True)
class Restored:
    """A machine that runs again."""

    machine: QemuMachine
    channel: Channel
    tag: int
    answered: float
    """Seconds from QEMU's start to the guest's answer."""

    def signal(self, number: int) -> None:
        """Send its program a signal; a program that has ended gets none."""
        self.channel.post([Command(Op.SIGNAL, (self.tag, number), tolerate=True)])

    def wait(self, output: Output) -> Result:
        """Pass on what the program writes until it ends. Raises HostError (`vm-died`), InterruptedBuildError."""
        self.channel.on_output = output
        with _explained(self.machine, "the machine ran"):
            return read_status(self.channel.wait_exit(self.tag))


@dataclass(frozen=True, slots=True)
class Identity:
    """What a restored machine is told from its siblings by."""

    hostname: str
    mac: bytes
    """Six."""
    machine_id: str
    """32 hex digits."""

    @staticmethod
    def fresh(hostname: str = "") -> Identity:
        """A new one, at random; as Docker names its containers."""
        mac = bytearray(os.urandom(6))
        mac[0] = mac[0] & 0xFC | 0x02  # of one station, administered locally
        return Identity(hostname or os.urandom(6).hex(), bytes(mac), os.urandom(16).hex())


@contextmanager
def restore(
    frozen: Frozen,
    qemu: str,
    vm_dir: Path,
    identity: Identity,
    cancelled: threading.Event,
    *,
    ports: Sequence[PortForward] = (),
    on_signal: Callable[[], Sequence[int]] = lambda: (),
    tap: Output | None = None,
) -> Iterator[Restored]:
    """Run a frozen machine; leaving the context ends it. Its ports lead into it once it is another than its siblings.

    `on_signal` is asked many times a second for signals to send. Raises HostError (`vm-silent`, `vm-setup`,
    `port-taken`, `disk-unusable`), InterruptedBuildError.
    """
    sweep(vm_dir / "run")
    for port in ports:
        port.check_free()
    with ExitStack() as held:
        stalls: list[str] = []
        while len(stalls) < _TRIES:
            with ExitStack() as attempt:
                try:
                    gate = usual_gate(ports)
                    restored = _revive(frozen, qemu, vm_dir, identity, cancelled, gate, on_signal, tap, attempt)
                except _StalledError as error:
                    stalls.append(str(error))
                    continue
                held.enter_context(attempt.pop_all())
                break
        else:
            raise _silent(stalls[-1])
        with _explained(restored.machine, "its ports were opened"):
            _open_ports(restored.machine.qmp, watcher(restored.machine, cancelled), ports)
        yield restored


def _revive(
    frozen: Frozen,
    qemu: str,
    vm_dir: Path,
    identity: Identity,
    cancelled: threading.Event,
    gate: Gate,
    on_signal: Callable[[], Sequence[int]],
    tap: Output | None,
    attempt: ExitStack,
) -> Restored:
    private = attempt.enter_context(run_folder(vm_dir / "run"))
    with disk_errors(private):
        clone(frozen.folder / "disk", private / "disk")
    begun = time.monotonic()
    spec = frozen.spec(qemu, private / "disk", share=False)
    wires = attempt.enter_context(open_wires(gate))
    machine = attempt.enter_context(start(spec, private, state=frozen.folder / "state", wires=wires))
    watch = watcher(machine, cancelled)
    alive: list[Restored] = []

    def attend() -> None:
        watch()
        if alive:
            for number in on_signal():
                alive[0].signal(number)

    channel = Channel(machine.agent, attend, first_tag=_FIRST_TAG)
    if tap is not None:
        channel.on_output = tap
    try:
        channel.call(_individual(frozen.machine_id, identity), _ANSWER_TIMEOUT)
    except (SilentGuestError, GuestGoneError) as error:
        if cancelled.is_set():
            raise InterruptedBuildError from error
        reason = "it does not answer" if isinstance(error, SilentGuestError) else "it ended by itself"
        raise _StalledError(f"{reason}\n{machine.autopsy()}") from error
    except (GuestFailureError, ProtocolError) as error:
        raise _set_up_failure(error, machine.autopsy()) from error
    alive.append(Restored(machine, channel, frozen.tag, time.monotonic() - begun))
    return alive[0]


def _individual(where: MachineId, identity: Identity) -> list[Command]:
    places = {MachineId.ROOT: (guest.ROOT, MACHINE_ID), MachineId.LAID_OVER: ("", guest.FIRST_OWN_FILE)}
    return guest.individual(identity.hostname, identity.mac, identity.machine_id, places.get(where))


def _open_ports(end: socket.socket, watch: Callable[[], None], ports: Sequence[PortForward]) -> None:
    if not ports:
        return
    qmp = Qmp(end, watch)
    qmp.skip(_ASKED_IN_ADVANCE, timeout=10)
    for port in ports:
        line = f"hostfwd_add net {port.option.removeprefix('hostfwd=')}"
        said = qmp.command("human-monitor-command", timeout=10, command_line=line)
        if said:
            raise HostError(
                f"port {port.host} of {port.address} cannot be had for -p {port}: {str(said).strip()}",
                code="port-taken",
                hint="choose another with -p HOST:GUEST, or stop what listens there",
            )
