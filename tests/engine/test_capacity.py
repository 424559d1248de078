"""How many machines run at once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from engine.capacity import BoundedSandbox, Capacity, default_jobs, host_memory
from engine.vm.execution import Execution
from engine.vm.fake import FakeSandbox
from machinefile.errors import InterruptedBuildError
from machinefile.steps import MachineShape

SMALL = MachineShape(cpus=1, memory=1 << 30)
LARGE = MachineShape(cpus=4, memory=1 << 30)


def test_there_is_room_for_as_many_as_fit_and_the_next_one_waits() -> None:
    capacity = Capacity(cpus=2, memory=8 << 30)
    inside, entered, leave = [], threading.Semaphore(0), threading.Event()

    def enter(number: int) -> None:
        with capacity.room(SMALL, threading.Event()):
            inside.append(number)
            entered.release()
            assert leave.wait(20)

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    assert entered.acquire(timeout=20)
    assert entered.acquire(timeout=20)
    assert not entered.acquire(timeout=0.3)
    assert len(inside) == 2
    leave.set()
    for thread in threads:
        thread.join(20)
    assert len(inside) == 3


def test_memory_bounds_it_too() -> None:
    capacity = Capacity(cpus=100, memory=3 << 29)
    with capacity.room(SMALL, threading.Event()), pytest.raises(InterruptedBuildError), capacity.room(SMALL, _soon()):
        pytest.fail("two of a GiB in one and a half")


def test_a_machine_larger_than_the_host_is_let_in_alone() -> None:
    capacity = Capacity(cpus=2, memory=1 << 20)
    with capacity.room(LARGE, threading.Event()), pytest.raises(InterruptedBuildError), capacity.room(SMALL, _soon()):
        pytest.fail("there is no room beside it")


def test_who_stops_waiting_does_not_keep_the_others_from_entering() -> None:
    capacity = Capacity(cpus=4, memory=8 << 30)
    with capacity.room(LARGE, threading.Event()), pytest.raises(InterruptedBuildError), capacity.room(LARGE, _soon()):
        pytest.fail("there is no room beside it")
    with capacity.room(LARGE, threading.Event()):
        pass


def test_a_bounded_sandbox_gives_what_the_sandbox_gives() -> None:
    sandbox = BoundedSandbox(FakeSandbox(lambda execution: (3, b"", b"")), Capacity(2, 4 << 30))
    execution = Execution((Path("/disk"),), ("false",), ())
    with sandbox.execute(execution, lambda stream, data: None, threading.Event()) as result:
        assert result.code == 3
    assert sandbox.starts == 1


def test_this_host_has_room_for_something() -> None:
    assert host_memory() > 64 << 20
    assert default_jobs() >= 2


def _soon() -> threading.Event:
    """An event that is set after a moment."""
    event = threading.Event()
    threading.Timer(0.2, event.set).start()
    return event
