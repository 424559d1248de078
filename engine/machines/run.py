"""Running a machine: restored where it fits, else booted cold from its disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from engine.machines.fit import misfit, situation_of
from engine.machines.library import Machine
from engine.runner import DEFAULT_HOSTNAME, RunRequest, argv_of
from engine.steps.run import with_terminal
from engine.vm.execution import Execution, Output
from engine.vm.portforward import PortForward
from engine.vm.qemu import QemuHypervisor
from engine.vm.restored import Identity, restore
from machinefile.errors import UsageError
from machinefile.steps import MachineShape
from machinefile.values import dataclass


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


def cold_execution(machine: Machine, folder: Path, request: RunRequest) -> Execution:
    """Its program for a microVM that starts from its disk as the image made it, as `request` would have it.

    The layers are unpacked into `folder`, where they must stay until it has run. Raises UsageError
    (`command-missing`, `user-unsupported`), HostError (`machine-unwritable`).
    """
    program = machine.manifest.program
    if request.user is not None:
        raise UsageError(
            f"-u {request.user}: a machine has no image of its own to look users up in",
            code="user-unsupported",
            hint="name the image that it was made of",
        )
    session = request.session
    environment = tuple(sorted({**dict(program.environment), **dict(request.environment)}.items()))
    return Execution(
        disks=machine.frozen.unpack_layers(folder),
        argv=argv_of(program.entrypoint, program.cmd, request),
        environment=with_terminal(environment) if session and session.size else environment,
        identity=program.identity,
        working_dir=request.working_dir or program.working_dir,
        shape=machine.manifest.shape if request.shape == MachineShape() else request.shape,
        network=request.network,
        hostname=request.hostname or DEFAULT_HOSTNAME,
        capture=False,
        session=session,
        ports=request.ports,
    )
