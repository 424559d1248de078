"""Machines restored for one command, up to where the command must be known: their disks are there, nothing of the user
has run."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cache.spans import ending, span
from engine.vm import guest, guestdisks
from engine.vm.channel import Channel, GuestGoneError
from engine.vm.disks import Disks, make_disks
from engine.vm.execution import SPARE_LAYERS, Execution, Outlook
from engine.vm.gates import gate_of
from engine.vm.hypervisor import Attachments, Hypervisor, Machine, Template
from engine.vm.mounts import cache_disks, layer_disks
from engine.vm.network.gate import Gate
from engine.vm.portforward import PortForward
from engine.vm.protocol import Command, Op, command
from engine.vm.runfolder import Growth, run_folder
from machinefile.errors import InterruptedBuildError
from machinefile.steps import NetworkMode
from machinefile.values import dataclass


@dataclass(slots=True)
class Watch:
    """Ends a wait for a guest when the user wants to stop, when the machine is gone, or writes more than it may."""

    machine: Machine
    growth: Growth
    cancelled: threading.Event

    def __call__(self) -> None:
        """Raises InterruptedBuildError, GuestGoneError, HostError `vm-disk-exceeded`."""
        if self.cancelled.is_set():
            raise InterruptedBuildError
        if not self.machine.alive:
            raise GuestGoneError
        self.growth.check()


@dataclass(slots=True)
class Awake:
    """One machine."""

    outlook: Outlook
    machine: Machine
    channel: Channel
    watch: Watch
    disks: Disks
    gate: Gate | None
    home: ExitStack
    """Holds its folder."""
    life: ExitStack
    """Holds the machine itself, which ends before its folder goes."""
    hello: list[tuple[int, Command]]
    told: list[tuple[int, Command]]
    """What was asked of it so far, for `Channel.collect`."""

    def close(self) -> None:
        """End it, and remove what it had."""
        with self.home, self.life:
            pass


@dataclass(frozen=True, slots=True)
class Waker:
    """Restores machines."""

    hypervisor: Hypervisor
    vm_dir: Path
    runtime_dir: Path

    def wake(self, execution: Execution, template: Template, cancelled: threading.Event) -> Awake:
        """A machine for a command that is known. Nothing is waited for.

        Raises HostError: those of disks, and where QEMU cannot be started.
        """
        extra = layer_disks(execution.disks, execution.mounts)
        caches = cache_disks(execution.mounts)
        return self._wake(execution.outlook, template, cancelled, extra=extra, caches=caches, ports=execution.ports)

    def wake_ahead(self, outlook: Outlook, cancelled: threading.Event) -> Awake:
        """A machine for a command whose topmost layers are still to come.

        Raises as `wake`, for templates, and InterruptedBuildError.
        """
        if cancelled.is_set():
            raise InterruptedBuildError
        with span("restore ahead", "vm"):
            with span("template", "vm"):
                template = self.hypervisor.template(outlook.shape, cancelled)
            awake = self._wake(outlook, template, cancelled, spare=SPARE_LAYERS)
        try:
            awake.channel.push()
        except GuestGoneError:
            pass  # who takes it will see
        except BaseException:
            awake.close()
            raise
        return awake

    def _wake(
        self,
        outlook: Outlook,
        template: Template,
        cancelled: threading.Event,
        *,
        extra: Sequence[Path] = (),
        caches: Sequence[Path] = (),
        ports: tuple[PortForward, ...] = (),
        spare: int = 0,
    ) -> Awake:
        with span("start", "vm"), ExitStack() as home:
            folder = home.enter_context(ending(run_folder(self.runtime_dir), "clean up", "vm"))
            disks = make_disks(folder, outlook.disks, template.disk, extra, caches, spare=spare)
            gate = gate_of(outlook, ports)
            restrict = outlook.network is NetworkMode.NONE
            attachments = Attachments(folder, disks.layers, disks.writable, restrict, gate, ports)
            with ExitStack() as life:
                machine = life.enter_context(ending(self.hypervisor.restore(template, attachments), "stop", "vm"))
                watch = Watch(machine, Growth(folder, outlook.shape.disk), cancelled)
                channel = Channel(machine.agent, watch)
                hello = channel.post([command(Op.HELLO)])
                differing = guest.refresh(guest.seed(), time.time_ns())
                told = channel.post([*differing, *guestdisks.attach(disks.map)])
                return Awake(outlook, machine, channel, watch, disks, gate, home.pop_all(), life.pop_all(), hello, told)
