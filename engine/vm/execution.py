"""A command to be run in a microVM, and what came of it: the seam between steps and the hypervisor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import field
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Protocol

from engine.vm.mounts import GuestMount
from engine.vm.network.gate import EgressLog
from engine.vm.network.rules import EgressPolicy
from engine.vm.portforward import PortForward
from engine.vm.session import Session
from machinefile.imageconfig import Pairs
from machinefile.steps import MachineShape, NetworkMode
from machinefile.values import dataclass

Output = Callable[[int, bytes], None]
"""Called with the stream (1 standard output, 2 standard error) and bytes, as they come, from one thread."""

SPARE_LAYERS = 4
"""Layers that may still come on top of a root whose machine was restored ahead."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a process is, in numbers."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    """Supplementary groups."""


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A small file that a command sees at an absolute path, over whatever the image has there; never in the layer."""

    path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a machine is restored with: what can be known of a command before its turn."""

    disks: tuple[Path, ...]
    """Squashfs files, lowest layer first; of a command to come, those that are there."""
    shape: MachineShape = field(default_factory=MachineShape)
    network: NetworkMode = NetworkMode.DEFAULT
    hosts: Pairs = ()
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    loopback_ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class FixedClock:
    """A guest's clock that has nothing of the host's."""

    start: int
    """What it shows when the command starts: whole seconds since 1970."""
    held: bool = False
    """Whether it stands still there."""


@dataclass(frozen=True, slots=True)
class Execution:
    """All that a microVM needs to know to run one command."""

    disks: tuple[Path, ...]
    """Squashfs files, lowest layer first; none for an empty root."""
    argv: tuple[str, ...]
    environment: Pairs
    identity: Identity = field(default_factory=Identity)
    working_dir: str = "/"
    """Absolute; made if it is missing."""
    shape: MachineShape = field(default_factory=MachineShape)
    network: NetworkMode = NetworkMode.DEFAULT
    hostname: str = "mbuild"
    files: tuple[GuestFile, ...] = ()
    capture: bool = True
    """Whether the changed files are wanted."""
    hosts: Pairs = ()
    """More names for etc/hosts, each with an address (IPv4, IPv6) or `host-gateway`."""
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    loopback_ports: frozenset[int] = frozenset()
    """Ports of the host's loopback interface that may be reached, at the gateway; the policy's rules come first."""
    session: Session | None = None
    """What the command reads, and its terminal; None for no input and no terminal."""
    ports: tuple[PortForward, ...] = ()
    """Ports of this machine that lead into the guest."""
    mounts: tuple[GuestMount, ...] = ()
    privileged: bool = False
    """Whether it has all capabilities, and nothing of /proc and /sys is hidden from it: RUN --security=insecure."""
    timeout: float | None = None
    """Seconds that the command may take."""
    clock_shift: int = 0
    """Seconds that the guest's clock is ahead of the host's."""
    clock: FixedClock | None = None
    """In place of the host's clock, whatever `clock_shift` says."""
    then: Outlook | None = None
    """What is likely to run next, on top of what this command changes; its machine may be restored meanwhile."""

    @property
    def outlook(self) -> Outlook:
        """What its machine is restored with."""
        return Outlook(self.disks, self.shape, self.network, self.hosts, self.egress, self.loopback_ports)


class Ending(Enum):
    """Why a command is over."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_DISK = "out of disk"
    CACHE_FULL = "cache full"
    TIMED_OUT = "timed out"


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    ending: Ending
    code: int
    """The exit code, 0 to 255; for a signal 128 and its number, as a shell says it."""
    changes: BinaryIO | None = None
    """With capture, and when it exited with 0: the changed files as a change stream (engine/layers/changes.py),
    open for reading from its start; good until the context of `execute` is left."""
    scratch: BinaryIO | None = None
    """With `changes`: the disk that the large files among them are still on."""
    egress: EgressLog = field(default_factory=EgressLog)
    """What it reached."""
    caches_whole: bool = False
    """Whether the disks of the cache mounts were let go of in order, so that they can be kept."""


def result_of(status: int) -> Result:
    """How a process with that wait status ended. Source: wait(2)."""
    if status & 0x7F:
        return Result(Ending.SIGNALLED, 128 + (status & 0x7F))
    return Result(Ending.EXITED, status >> 8 & 0xFF)


class Sandbox(Protocol):
    """Runs commands apart from the host."""

    def execute(
        self, execution: Execution, output: Output, cancelled: threading.Event
    ) -> AbstractContextManager[Result]:
        """Run a command to its end; leaving the context frees the VM's disks.

        Raises HostError when the VM cannot be started or dies, InterruptedBuildError soon after `cancelled` is set.
        """
        ...

    def merge(self, newer: Path, into: Path, shape: MachineShape, cancelled: threading.Event) -> None:
        """Bring the files of one cache disk that another lacks, or has older, into that other. Both are written to.

        Raises as `execute`.
        """
        ...

    def expect(self, outlook: Outlook, cancelled: threading.Event) -> None:
        """Begin to restore a machine for a command to come, unless `cancelled` is set. Waits a tenth of a second at
        most, and fails in silence."""
        ...

    def forget(self) -> None:
        """Let go of machines that were restored for commands which do not come."""
        ...

    @property
    def starts(self) -> int:
        """How many microVMs commands were run in so far."""
        ...
