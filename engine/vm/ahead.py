"""Machines restored ahead: while one command runs, that of the one to come."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from engine.vm.awake import Awake, Waker
from engine.vm.execution import Execution, Outlook
from engine.vm.mounts import cache_disks, layer_disks
from machinefile.errors import InterruptedBuildError
from machinefile.values import dataclass

_MOST = 2
"""Machines that wait at once: each costs a process, and next to no memory until its command comes."""
_HEAD_START = 0.1
"""Seconds that a machine gets to itself at most: its template may have to be made."""
_POLL = 0.05
"""Seconds between two looks at `cancelled`."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    outlook: Outlook
    awake: Future[Awake]
    abandoned: threading.Event


class Ahead:
    """The machines that wait for their commands; for any threads.

    A thread of its own starts them: the kernel ties a child's life to the thread that started it. It also ends those
    that are let go, and the interpreter does not exit before it has: whoever is interrupted leaves none behind.
    """

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._ending: list[Future[None]] = []
        self._starter = ThreadPoolExecutor(1, "ahead")

    def expect(self, outlook: Outlook, cancelled: threading.Event, *, first: bool = False) -> None:
        """Begin to restore a machine, unless `cancelled` is set; of too many that wait the oldest is let go.

        With `first`, what else there is to do stands back until QEMU is started: they would have the interpreter by
        turns, and it is QEMU that takes long.
        """
        with self._lock:
            if cancelled.is_set():  # who does that calls `forget` afterwards: none may come behind it
                return
            if len(self._waiting) >= _MOST:
                self._let_go(self._waiting.pop(0))
            abandoned = threading.Event()
            started = self._starter.submit(self._waker.wake_ahead, outlook, abandoned)
            self._waiting.append(_Waiting(outlook, started, abandoned))
        if first:
            wait([started], _HEAD_START)

    def take(self, execution: Execution, cancelled: threading.Event) -> Awake | None:
        """A machine that was restored for such a command, if there is one; it is the caller's then.

        Raises InterruptedBuildError.
        """
        with self._lock:
            found = next((one for one in self._waiting if _suits(one.outlook, execution)), None)
            if found is None:
                return None
            self._waiting.remove(found)
        while not wait([found.awake], _POLL).done:  # its template may have to be made first
            if cancelled.is_set():
                with self._lock:
                    self._let_go(found)
                raise InterruptedBuildError
        if found.awake.exception() is not None:
            return None  # what is wrong shows again when the command's own machine is started
        awake = found.awake.result()
        if not awake.disks.room_for(_on_top(awake.outlook, execution)):
            awake.close()
            return None
        awake.watch.cancelled = cancelled
        return awake

    def forget(self) -> None:
        """End those that wait, and those that were let go before."""
        with self._lock:
            for one in self._waiting:
                self._let_go(one)
            ending, self._waiting, self._ending = self._ending, [], []
        wait(ending)

    def _let_go(self, waiting: _Waiting) -> None:
        waiting.abandoned.set()
        self._ending.append(self._starter.submit(_end, waiting.awake))


def _end(awake: Future[Awake]) -> None:
    """In the starter's thread, behind what it has started."""
    if awake.exception() is None:
        awake.result().close()


def _on_top(outlook: Outlook, execution: Execution) -> Sequence[Path]:
    return execution.disks[len(outlook.disks) :]


def may_wait(execution: Execution) -> bool:
    """Whether a machine for such a command can be restored before all is known of it."""
    return not (execution.ports or layer_disks(execution.disks, execution.mounts) or cache_disks(execution.mounts))


def _suits(outlook: Outlook, execution: Execution) -> bool:
    if not may_wait(execution):
        return False
    wanted = execution.outlook
    known = len(outlook.disks)
    return (wanted.shape, wanted.network, wanted.hosts, wanted.egress, wanted.loopback_ports) == (
        outlook.shape,
        outlook.network,
        outlook.hosts,
        outlook.egress,
        outlook.loopback_ports,
    ) and wanted.disks[:known] == outlook.disks
