"""Jobs in parallel: order, bounds, failures, interrupts."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.schedule import Job, carry_out
from machinefile.errors import InterruptedBuildError

GRAPHS = st.lists(st.sets(st.integers(min_value=0, max_value=11), max_size=4), min_size=1, max_size=12)
"""What each job needs; numbers that are not below its own are left out, so that there are no circles."""


@given(GRAPHS, st.integers(min_value=1, max_value=5))
def test_every_job_runs_once_after_what_it_needs_and_within_the_limit(graph: list[set[int]], limit: int) -> None:
    lock = threading.Lock()
    done: list[int] = []
    inside, most = 0, 0

    def work(number: int, needs: set[int]) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            assert needs <= set(done)
        with lock:
            inside -= 1
            done.append(number)

    jobs = []
    for number, needs in enumerate(graph):
        below = {needed for needed in needs if needed < number}
        jobs.append(Job(str(number), {str(needed) for needed in below}, lambda stop, n=number, b=below: work(n, b)))
    carry_out(jobs, limit, threading.Event())
    assert sorted(done) == list(range(len(graph)))
    assert most <= limit


def test_one_at_a_time_keeps_the_given_order() -> None:
    done: list[str] = []
    jobs = [Job(name, (), lambda stop, name=name: done.append(name)) for name in "abcdef"]
    carry_out(jobs, 1, threading.Event())
    assert done == list("abcdef")


def test_jobs_that_do_not_need_one_another_run_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=20)
    carry_out([Job(name, (), lambda stop: meeting.wait() and None) for name in "abc"], 3, threading.Event())
    assert not meeting.broken


def test_the_first_failure_stops_the_others_and_is_the_one_that_is_raised() -> None:
    began = threading.Event()
    stopped: list[bool] = []

    def patient(stop: threading.Event) -> None:
        began.set()
        stopped.append(stop.wait(20))
        raise InterruptedBuildError

    def failing(stop: threading.Event) -> None:
        assert began.wait(20)
        raise ValueError("broken")

    never: list[int] = []
    jobs = [
        Job("patient", (), patient),
        Job("failing", (), failing),
        Job("after", ("failing",), lambda stop: never.append(1)),
    ]
    with pytest.raises(ValueError, match="broken"):
        carry_out(jobs, 2, threading.Event())
    assert stopped == [True]
    assert not never


def test_an_interrupt_stops_what_runs() -> None:
    cancelled = threading.Event()
    stopped: list[bool] = []

    def patient(stop: threading.Event) -> None:
        cancelled.set()
        stopped.append(stop.wait(20))

    begun = time.monotonic()
    with pytest.raises(InterruptedBuildError):
        carry_out([Job("patient", (), patient), Job("after", ("patient",), patient)], 2, cancelled)
    assert stopped == [True]
    assert time.monotonic() - begun < 15


def test_no_jobs_are_done_at_once() -> None:
    carry_out([], 4, threading.Event())
