"""Carrying out jobs that need one another: each as soon as what it needs is done, a few at a time."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Collection, Sequence

from machinefile.errors import InterruptedBuildError
from machinefile.values import dataclass

_POLL = 0.05
"""Seconds between two looks at `cancelled`."""
_GRACE = 10.0
"""Seconds for jobs that still run to leave off: a microVM has to be ended, on however busy a machine."""


@dataclass(frozen=True, slots=True)
class Job:
    """Something to be done after other jobs."""

    id: str
    needs: Collection[str]
    """The ids of jobs that must be done first; ids of no job here count as done."""
    work: Callable[[threading.Event], None]
    """Does it, and leaves off, with whatever exception it likes, soon after the event it is given is set."""


def carry_out(jobs: Sequence[Job], limit: int, cancelled: threading.Event) -> None:
    """Do all jobs, at most `limit` at a time; of those that could begin, the first in `jobs` goes first.

    The first failure stops the others, and is raised when they have left off. Raises InterruptedBuildError once
    `cancelled` is set. `needs` must not go round in circles.
    """
    _Schedule(jobs, cancelled).run(min(limit, len(jobs)))


class _Schedule:
    def __init__(self, jobs: Sequence[Job], cancelled: threading.Event) -> None:
        self._jobs = jobs
        self._cancelled = cancelled
        self._stop = threading.Event()
        self._changed = threading.Condition()
        known = {job.id: number for number, job in enumerate(jobs)}
        needs = [{known[needed] for needed in job.needs if needed in known} for job in jobs]
        self._missing = [len(one) for one in needs]
        self._above: list[list[int]] = [[] for _ in jobs]
        for number, one in enumerate(needs):
            for needed in one:
                self._above[needed].append(number)
        self._ready = [number for number, count in enumerate(self._missing) if not count]  # sorted: a heap
        self._left = len(jobs)
        self._failure: BaseException | None = None

    def run(self, workers: int) -> None:
        # Daemons: what does not leave off must not keep the interpreter from exiting.
        threads = [threading.Thread(target=self._work, name="steps", daemon=True) for _ in range(workers)]
        try:
            for thread in threads:
                thread.start()
            self._wait()
        finally:
            with self._changed:
                self._stop.set()
                self._changed.notify_all()
            until = time.monotonic() + _GRACE
            for thread in threads:
                if thread.ident is not None:
                    thread.join(max(0.0, until - time.monotonic()))
        if self._failure is not None:
            raise self._failure

    def _wait(self) -> None:
        with self._changed:
            while self._left and self._failure is None:
                if self._cancelled.is_set():
                    raise InterruptedBuildError
                self._changed.wait(_POLL)

    def _work(self) -> None:
        while (number := self._next()) is not None:
            try:
                self._jobs[number].work(self._stop)
            except BaseException as error:  # raised again by who waits
                with self._changed:
                    # What others say once they are stopped is of no interest.
                    if not self._stop.is_set():
                        self._failure = error
                    self._stop.set()
                    self._changed.notify_all()
                return
            self._done(number)

    def _next(self) -> int | None:
        with self._changed:
            while not self._ready and self._left and not self._stop.is_set():
                self._changed.wait()
            return heapq.heappop(self._ready) if self._ready and not self._stop.is_set() else None

    def _done(self, number: int) -> None:
        with self._changed:
            self._left -= 1
            for above in self._above[number]:
                self._missing[above] -= 1
                if not self._missing[above]:
                    heapq.heappush(self._ready, above)
            self._changed.notify_all()
