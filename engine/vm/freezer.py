"""Makes machines: starts a program in a microVM, waits until it is ready, and freezes it all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engine.vm import guest, guestdisks
from engine.vm.breakdown import TRIES, StalledError, explained, set_up_failure, silent
from engine.vm.channel import Channel, GuestFailureError, GuestGoneError, SilentGuestError
from engine.vm.disks import clone, dig_holes
from engine.vm.execution import Execution, Output
from engine.vm.frozen import CHANGES, MACHINE_ID, Frozen, MachineId, copy_range, disk_errors
from engine.vm.gates import gate_of
from engine.vm.guestdisks import LEAD, Region, lay_out
from engine.vm.hypervisor import Template
from engine.vm.network.gate import Gate
from engine.vm.network.pump import Wires, open_wires
from engine.vm.protocol import Op, ProtocolError, command
from engine.vm.qemu import ANSWERS_TO_RESTORE, QemuHypervisor, QemuMachine, start
from engine.vm.qmp import Qmp, QmpError
from engine.vm.runfolder import run_folder, sweep
from engine.vm.starting import Starting
from engine.vm.template import greet, watcher, write_state
from machinefile.values import dataclass

_ANSWER_TIMEOUT = 5.0
_SET_UP_TIMEOUT = 60.0


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
        while len(stalls) < TRIES:
            try:
                with disk_errors(folder):
                    self._lay_out(frozen, template, execution.disks)
                return self._run(frozen, template, execution, wait, output, cancelled)
            except StalledError as error:
                stalls.append(str(error))
        raise silent(stalls[-1])

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
                        copy_range(layer, 0, whole, length)
        clone(template.disk, folder / "disk")
        with (folder / "disk").open("r+b") as disk:
            disk.truncate(template.disk.stat().st_size + CHANGES)

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
            spec = frozen.spec(self.hypervisor.qemu.program, disk, share=True)
            with (
                _wired(gate_of(execution, execution.ports)) as wires,
                start(spec, private, state=template.state, wires=wires) as machine,
            ):
                watch = watcher(machine, cancelled)
                channel = Channel(machine.agent, watch)
                _set_up(machine, channel, execution, lay_out(frozen.layers, LEAD))
                with explained(machine, "its program was made ready"):
                    channel.on_output = output
                    posted = channel.post([guest.spawn(execution)])
                    channel.collect(posted, _SET_UP_TIMEOUT)
                    tag = posted[0][0]
                    wait(Starting(channel, execution, tag))
                    has_id = _hold_still(channel, execution)
                    qmp = Qmp(machine.qmp, watch)
                    qmp.skip(ANSWERS_TO_RESTORE, timeout=10)
                    write_state(qmp, frozen.folder / "state")
            with disk_errors(frozen.folder):
                dig_holes(frozen.folder / "ram")
        return replace(frozen, tag=tag, machine_id=has_id)


def _set_up(machine: QemuMachine, channel: Channel, execution: Execution, layers: Sequence[Region]) -> None:
    """Everything up to the program's start. Raises StalledError when the machine does not come to life."""
    furnishing = [*guest.add_folders(), *guest.furnish(execution)[0], guest.enter(execution)]
    try:
        greet(channel, _ANSWER_TIMEOUT)
        laying = [*guestdisks.add_packed(layers), *guest.lay_root(len(layers))]
        channel.call([*guest.refresh(guest.seed(), time.time_ns()), *laying, *furnishing], _SET_UP_TIMEOUT)
    except (SilentGuestError, GuestGoneError) as error:
        reason = "it does not answer" if isinstance(error, SilentGuestError) else "it ended by itself"
        raise StalledError(f"{reason}\n{machine.autopsy()}") from error
    except (GuestFailureError, ProtocolError) as error:
        raise set_up_failure(error, machine.autopsy()) from error


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


def _lengths(layers: Sequence[Path]) -> tuple[int, ...]:
    return tuple(path.stat().st_size for path in layers)
