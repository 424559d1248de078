"""The seam between running a step and what a microVM is made of."""

from __future__ import annotations

import socket
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from engine.vm.accelerator import Accelerator
from engine.vm.network.gate import Gate
from engine.vm.portforward import PortForward
from machinefile.steps import MachineShape
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Template:
    """A frozen machine that any number of machines are restored from."""

    folder: Path
    shape: MachineShape
    accelerator: Accelerator

    @property
    def ram(self) -> Path:
        """The guest's memory; sparse."""
        return self.folder / "ram"

    @property
    def state(self) -> Path:
        """The devices' state."""
        return self.folder / "state"

    @property
    def disk(self) -> Path:
        """The scratch disk, as the guest has it mounted; sparse."""
        return self.folder / "disk"

    @property
    def initrd(self) -> Path:
        """The first file system."""
        return self.folder / "initrd"

    @property
    def cmdline(self) -> str:
        """What the kernel was told."""
        return (self.folder / "cmdline").read_text()


@dataclass(frozen=True, slots=True)
class Attachments:
    """What a restored machine gets of its own."""

    folder: Path
    """A private folder; disks are named relative to it, and logs go there."""
    layers: str | None = None
    """The vmdk descriptor of the read-only disk."""
    writable: str | None = None
    """The vmdk descriptor of the writable disk."""
    restrict: bool = False
    """Whether the network leads nowhere."""
    gate: Gate | None = None
    """Judges what the guest sends; None lets everything pass."""
    ports: tuple[PortForward, ...] = ()


class Machine(Protocol):
    """A running microVM."""

    @property
    def agent(self) -> socket.socket:
        """Leads to the guest agent."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        ...

    def autopsy(self) -> Autopsy:
        """What is left to read when it did not behave."""
        ...


@dataclass(frozen=True, slots=True)
class Autopsy:
    """The last words of a machine."""

    errors: str = ""
    """QEMU's standard error."""
    console: str = ""
    """The end of the guest's serial console."""

    @property
    def panicked(self) -> bool:
        """Whether the guest's kernel gave up."""
        return "Kernel panic" in self.console

    @property
    def out_of_memory(self) -> bool:
        """Whether it gave up for want of memory."""
        return self.panicked and "deadlocked on memory" in self.console

    def __str__(self) -> str:
        parts = [f"QEMU: {self.errors}"] if self.errors else []
        parts += [f"console: {self.console}"] if self.console else []
        return "\n".join(parts) or "no message"


class Hypervisor(Protocol):
    """Makes templates and restores machines from them."""

    def template(self, shape: MachineShape, cancelled: threading.Event) -> Template:
        """The template for a shape, made if it is not there yet.

        Raises HostError, InterruptedBuildError.
        """
        ...

    def restore(self, template: Template, attachments: Attachments) -> AbstractContextManager[Machine]:
        """Start a machine; leaving the context ends it. Whether it lives shows when its agent answers."""
        ...
