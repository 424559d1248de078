"""Running a machine: restored where it fits, else booted cold from its disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.machines.fit import misfit, situation_of
from engine.machines.library import Machine
from engine.vm.execution import Execution, Output
from engine.vm.frozen import Identity, restore
from engine.vm.portforward import PortForward
from engine.vm.qemu import QemuHypervisor
from machinefile.errors import UsageError


def no_signals() -> Sequence[int]:
    """Nobody sends any."""
    return ()


@dataclass(frozen=True, slots=True)
class MachineRun:
    """How a machine is to be restored."""

    ports: tuple[PortForward, ...] = ()
    hostname: str = ""
    """Empty for one at random."""
    signals: Callable[[], Sequence[int]] = no_signals
    """Asked many times a second for signals to send to its program."""
    started: Callable[[float], None] = lambda seconds: None
    """Called when it runs and its ports are open, with the seconds from QEMU's start to the guest's answer."""


def why_cold(machine: Machine, name: str, hypervisor: QemuHypervisor, cancelled: threading.Event) -> str:
    """Why a machine cannot be restored here, empty if it can.

    Raises HostError (`machine-foreign`, and those of finding QEMU), UsageError, InterruptedBuildError.
    """
    return misfit(machine.manifest, situation_of(hypervisor, cancelled), name)


def run_restored(
    machine: Machine,
    run: MachineRun,
    hypervisor: QemuHypervisor,
    vm_dir: Path,
    output: Output,
    cancelled: threading.Event,
) -> int:
    """Restore a machine and give the exit code of its program; a signal is 128 and its number.

    Raises HostError (`vm-silent`, `vm-setup`, `vm-died`, `port-taken`), InterruptedBuildError.
    """
    restoring = restore(
        machine.frozen,
        hypervisor.qemu.program,
        vm_dir,
        Identity.fresh(run.hostname),
        cancelled,
        ports=run.ports,
        on_signal=run.signals,
        tap=output,
    )
    with restoring as restored:
        run.started(restored.answered)
        return restored.wait(output).code


def cold_execution(machine: Machine, folder: Path, command: Sequence[str] = ()) -> Execution:
    """Its program for a microVM that starts from its disk as the image made it; `command` in place of the CMD.

    The layers are unpacked into `folder`, where they must stay until it has run. Raises UsageError
    (`command-missing`), OSError.
    """
    program = machine.manifest.program
    argv = (*program.entrypoint, *(tuple(command) or program.cmd))
    if not argv:
        raise UsageError(
            "the machine's image has no ENTRYPOINT and no CMD",
            code="command-missing",
            hint="say what to run: mbuild run NAME CMD",
        )
    return Execution(
        disks=machine.frozen.unpack_layers(folder),
        argv=argv,
        environment=program.environment,
        identity=program.identity,
        working_dir=program.working_dir,
        shape=machine.manifest.shape,
        capture=False,
    )
