"""How many microVMs run at once: as many as the host's cores and memory bear."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cache.spans import span
from engine.outersandbox import OuterSandbox
from machinefile.errors import InterruptedBuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.vm.execution import Execution, Output, Result, Sandbox
    from machinefile.steps import MachineShape

_POLL = 0.1
"""Seconds between two looks at `cancelled`."""
_CPUS_A_CORE = 2
"""A step waits for the network or a disk for much of its time."""
_MEMORY_SHARE = 0.75
"""What guests may have of the host's memory. What a guest does not touch costs nothing, so this is cautious."""
_LEAST_JOBS = 2


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))


def default_jobs() -> int:
    """How many steps run at once where --jobs does not say."""
    return max(_LEAST_JOBS, cores())


def host_memory() -> int:
    """Bytes of memory that this process may use: the host's, or its control group's limit."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory


class Capacity:
    """Lets machines in, in the order that they come, while there is room; one that is larger than the host, alone."""

    def __init__(self, cpus: int, memory: int) -> None:
        """`memory` in bytes."""
        self._cpus = cpus
        self._memory = memory
        self._inside: list[MachineShape] = []
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @classmethod
    def of_host(cls) -> Capacity:
        """What this machine bears."""
        return cls(cores() * _CPUS_A_CORE, int(host_memory() * _MEMORY_SHARE))

    @contextmanager
    def room(self, shape: MachineShape, cancelled: threading.Event) -> Iterator[None]:
        """Wait until there is room for a machine of that shape, and keep it. Raises InterruptedBuildError."""
        ticket = object()
        with span("room", "vm"), self._changed:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket or not self._fits(shape):
                    if cancelled.is_set():
                        raise InterruptedBuildError
                    self._changed.wait(_POLL)
                self._inside.append(shape)
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._inside.remove(shape)
                self._changed.notify_all()

    def _fits(self, shape: MachineShape) -> bool:
        if not self._inside:
            return True
        cpus = sum(one.cpus for one in self._inside) + shape.cpus
        memory = sum(one.memory for one in self._inside) + shape.memory
        return cpus <= self._cpus and memory <= self._memory


class BoundedSandbox(OuterSandbox):
    """Runs no more at once than there is room for; one that waits (`expect`) takes next to nothing."""

    def __init__(self, inner: Sandbox, capacity: Capacity) -> None:
        super().__init__(inner)
        self._capacity = capacity

    @contextmanager
    def execute(self, execution: Execution, output: Output, cancelled: threading.Event) -> Iterator[Result]:
        """Wait for room, then as the sandbox does it."""
        with ExitStack() as stack:
            with self._capacity.room(execution.shape, cancelled):
                result = stack.enter_context(super().execute(execution, output, cancelled))
            # The machine is over: whoever looks at what came of it may need room for another.
            yield result

    def merge(self, newer: Path, into: Path, shape: MachineShape, cancelled: threading.Event) -> None:
        """Wait for room, then as the sandbox does it."""
        with self._capacity.room(shape, cancelled):
            super().merge(newer, into, shape, cancelled)
