"""Machines that run again: restored from what is on disk, and made to differ from their siblings."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine.vm import guest
from engine.vm.breakdown import TRIES, StalledError, explained, set_up_failure, silent
from engine.vm.channel import Channel, GuestFailureError, GuestGoneError, SilentGuestError
from engine.vm.disks import clone
from engine.vm.execution import Output, Result, result_of
from engine.vm.frozen import MACHINE_ID, Frozen, MachineId, disk_errors
from engine.vm.gates import usual_gate
from engine.vm.network.gate import Gate
from engine.vm.network.pump import open_wires
from engine.vm.portforward import PortForward
from engine.vm.protocol import Command, Op, ProtocolError
from engine.vm.qemu import ANSWERS_TO_RESTORE, QemuMachine, start
from engine.vm.qmp import Qmp
from engine.vm.runfolder import run_folder, sweep
from engine.vm.template import watcher
from machinefile.errors import HostError, InterruptedBuildError
from machinefile.values import dataclass

_ANSWER_TIMEOUT = 5.0
_FIRST_TAG = 1 << 16
"""Where the tags begin of who talks to a restored machine; the first conversation stays below."""


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
        with explained(self.machine, "the machine ran"):
            return result_of(self.channel.wait_exit(self.tag))


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
        while len(stalls) < TRIES:
            with ExitStack() as attempt:
                try:
                    gate = usual_gate(ports)
                    restored = _revive(frozen, qemu, vm_dir, identity, cancelled, gate, on_signal, tap, attempt)
                except StalledError as error:
                    stalls.append(str(error))
                    continue
                held.enter_context(attempt.pop_all())
                break
        else:
            raise silent(stalls[-1])
        with explained(restored.machine, "its ports were opened"):
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
        raise StalledError(f"{reason}\n{machine.autopsy()}") from error
    except (GuestFailureError, ProtocolError) as error:
        raise set_up_failure(error, machine.autopsy()) from error
    alive.append(Restored(machine, channel, frozen.tag, time.monotonic() - begun))
    return alive[0]


def _individual(where: MachineId, identity: Identity) -> list[Command]:
    places = {MachineId.ROOT: (guest.ROOT, MACHINE_ID), MachineId.LAID_OVER: ("", guest.FIRST_OWN_FILE)}
    return guest.individual(identity.hostname, identity.mac, identity.machine_id, places.get(where))


def _open_ports(end: socket.socket, watch: Callable[[], None], ports: Sequence[PortForward]) -> None:
    if not ports:
        return
    qmp = Qmp(end, watch)
    qmp.skip(ANSWERS_TO_RESTORE, timeout=10)
    for port in ports:
        line = f"hostfwd_add net {port.option.removeprefix('hostfwd=')}"
        said = qmp.command("human-monitor-command", timeout=10, command_line=line)
        if said:
            raise HostError(
                f"port {port.host} of {port.address} cannot be had for -p {port}: {str(said).strip()}",
                code="port-taken",
                hint="choose another with -p HOST:GUEST, or stop what listens there",
            )
