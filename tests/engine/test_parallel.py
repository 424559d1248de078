"""A few things at a time: order, failure, interrupts."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.parallel import in_parallel
from machinefile.errors import InterruptedBuildError


def test_results_come_in_the_order_of_the_tasks() -> None:
    def task(number: int) -> int:
        time.sleep(0.01 * (5 - number))
        return number

    assert in_parallel([lambda stop, n=n: task(n) for n in range(5)], 3) == [0, 1, 2, 3, 4]
    assert in_parallel([], 3) == []


def test_no_more_than_the_limit_at_a_time() -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def task(stop: threading.Event) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1

    in_parallel([task] * 10, 3)
    assert most == [3]


def test_the_first_failure_stops_the_others() -> None:
    begun: list[int] = []
    stopped = threading.Event()

    def fail(stop: threading.Event) -> None:
        raise ValueError("no")

    def wait(stop: threading.Event) -> None:
        begun.append(1)
        if stop.wait(5):
            stopped.set()

    with pytest.raises(ValueError, match="no"):
        in_parallel([wait, fail, wait, wait], 2)
    assert stopped.is_set()
    assert len(begun) < 4


def test_a_task_that_does_not_leave_off_is_abandoned() -> None:
    release = threading.Event()

    def fail(stop: threading.Event) -> None:
        raise ValueError("no")

    began = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        in_parallel([lambda stop: release.wait(20), fail], 2)
    assert time.monotonic() - began < 5
    release.set()


def test_a_cancelled_build_stops_them_all() -> None:
    cancelled = threading.Event()

    def task(stop: threading.Event) -> None:
        cancelled.set()
        stop.wait(5)

    began = time.monotonic()
    with pytest.raises(InterruptedBuildError):
        in_parallel([task, task], 2, cancelled)
    assert time.monotonic() - began < 3


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_stops_them_all() -> None:
    stopped = threading.Event()

    def task(stop: threading.Event) -> None:
        if stop.wait(5):
            stopped.set()

    with alarm(0.2), pytest.raises(KeyboardInterrupt):
        in_parallel([task], 2)
    assert stopped.is_set()
