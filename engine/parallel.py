"""A few things at a time: transfers mostly wait for others."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from machinefile.errors import InterruptedBuildError, UntrustedDataError

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
Task = Callable[[threading.Event], T]
"""Does its work, and leaves off, with whatever exception it likes, soon after the event it is given is set."""

_POLL = 0.1
"""Seconds between two looks at `cancelled`."""
_GRACE = 1.0
"""Seconds for those that still work to leave off in order."""


def in_parallel(tasks: Sequence[Task[T]], limit: int, cancelled: threading.Event | None = None) -> list[T]:
    """Carry out the tasks, at most `limit` at a time, and give their results in the order of the tasks.

    The first failure stops the others and is raised; so does an interrupt here, or InterruptedBuildError once
    `cancelled` is set. What does not leave off in a second is abandoned: a thread that waits for a
    silent server must not keep the user waiting too.
    """
    return _Group(tasks, limit, cancelled or threading.Event()).results()


class Background:
    """Tasks that are carried out as `in_parallel` does while the caller does something else: a context manager.

    Leaving waits for them and raises what they failed of. What the caller failed of ends them, unless it is
    UntrustedDataError or InterruptedBuildError, of which they may know a better reason: then theirs is raised
    if they fail too.
    """

    def __init__(
        self,
        tasks: Sequence[Task[None]],
        limit: int,
        cancelled: threading.Event | None = None,
        afterwards: Callable[[], None] = lambda: None,
    ) -> None:
        """`afterwards` is called when nothing runs any more, or is waited for."""
        self._tasks = tasks
        self._limit = limit
        self._halt = _Either(cancelled or threading.Event())
        self._afterwards = afterwards
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="background", daemon=True)

    def _work(self) -> None:
        try:
            in_parallel(self._tasks, self._limit, self._halt)
        except BaseException as error:  # raised again when the context is left
            self._failure = error
        finally:
            self._afterwards()

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, (UntrustedDataError, InterruptedBuildError)):
            self._halt.set()
            self._thread.join(2 * _GRACE)
            return
        try:
            self._thread.join()
        except BaseException:
            self._halt.set()
            self._thread.join(2 * _GRACE)
            raise
        if self._failure is not None:
            raise self._failure from None


class _Either(threading.Event):
    """Set by itself, or with another event."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        return super().is_set() or self._other.is_set()


class _Group(Generic[T]):
    def __init__(self, tasks: Sequence[Task[T]], limit: int, cancelled: threading.Event) -> None:
        from concurrent.futures import Future  # with logging, which a cached build has no use for

        self._futures: list[Future[T]] = [Future() for _ in tasks]
        self._waiting = deque(zip(tasks, self._futures, strict=True))
        self._cancelled = cancelled
        self._stop = threading.Event()
        self._done: queue.SimpleQueue[Future[T]] = queue.SimpleQueue()
        # Not an executor's threads: the interpreter waits for those when it exits, however long they take.
        count = min(limit, len(tasks))
        self._threads = [threading.Thread(target=self._work, name="parallel", daemon=True) for _ in range(count)]

    def results(self) -> list[T]:
        try:
            for thread in self._threads:
                thread.start()
            for _ in self._futures:
                self._next().result()
        finally:
            self._stop.set()
            until = time.monotonic() + _GRACE
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join(max(0.0, until - time.monotonic()))
        return [future.result() for future in self._futures]

    def _next(self) -> Future[T]:
        while True:
            if self._cancelled.is_set():
                raise InterruptedBuildError
            try:
                return self._done.get(timeout=_POLL)
            except queue.Empty:
                continue

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                task, future = self._waiting.popleft()
            except IndexError:
                return
            try:
                result = task(self._stop)
            except BaseException as error:  # raised again by who waits for the result
                future.set_exception(error)
                self._done.put(future)  # before the others are stopped: what they then say is of no interest
                self._stop.set()
                return
            future.set_result(result)
            self._done.put(future)
