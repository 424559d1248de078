"""The sandbox over a hypervisor that is not there: what it asks of the guest, and what it makes of its fate."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from engine.vm import channel as channel_module
from engine.vm import runfolder
from engine.vm import sandbox as sandbox_module
from engine.vm.execution import Ending, Execution
from engine.vm.fake import FakeCommand, FakeHypervisor, FakeMachine, FakeSandbox, Life
from engine.vm.protocol import Frame, Op, Values
from engine.vm.sandbox import MicroVmSandbox
from machinefile.errors import HostError, InterruptedBuildError
from machinefile.steps import MachineShape, NetworkMode

EXECUTION = Execution((), ("true",), (("PATH", "/bin"),), shape=MachineShape(disk=64 << 20))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says nothing is given up at once."""
    monkeypatch.setattr(sandbox_module, "_ANSWER_TIMEOUT", 0.3)


def test_output_exit_code_and_changes_come_through(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor(does=FakeCommand(output=[(1, b"a"), (2, b"b"), (1, b"c")], changes=b"stream"))
    said: list[tuple[int, bytes]] = []
    box = MicroVmSandbox(hypervisor, tmp_path)
    with box.execute(EXECUTION, lambda n, data: said.append((n, data)), threading.Event()) as result:
        assert (result.ending, result.code) == (Ending.EXITED, 0)
        assert result.changes is not None
        assert result.changes.read(6) == b"stream"
    assert said == [(1, b"a"), (2, b"b"), (1, b"c")]
    assert box.starts == 1
    assert not list((tmp_path / "run").iterdir())


def test_the_guest_is_made_different_before_anything_else(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    for _ in range(2):
        with MicroVmSandbox(hypervisor, tmp_path).execute(EXECUTION, lambda *_: None, threading.Event()):
            pass
    orders = [[frame.op for frame in machine.commands] for machine in hypervisor.machines]
    assert orders[0][:3] == [Op.HELLO, Op.RESEED, Op.SET_CLOCK]
    seeds = [Values(machine.commands[1].payload).data() for machine in hypervisor.machines]
    assert len(seeds[0]) == 64
    assert seeds[0] != seeds[1]
    assert orders[0][-1] == Op.CHANGES


@pytest.mark.parametrize(
    ("does", "ending", "code"),
    [
        (FakeCommand(status=3 << 8), Ending.EXITED, 3),
        (FakeCommand(status=11), Ending.SIGNALLED, 139),
        (FakeCommand(status=9, vmstat=b"a 1\noom_kill 2\n"), Ending.OUT_OF_MEMORY, 137),
        (FakeCommand(status=1 << 8, free_blocks=3), Ending.OUT_OF_DISK, 1),
        (FakeCommand(vmstat=b"oom_kill 2\n", free_blocks=0), Ending.EXITED, 0),
    ],
)
def test_how_a_command_ends(tmp_path: Path, does: FakeCommand, ending: Ending, code: int) -> None:
    box = MicroVmSandbox(FakeHypervisor(does=does), tmp_path)
    with box.execute(EXECUTION, lambda *_: None, threading.Event()) as result:
        assert (result.ending, result.code) == (ending, code)
        assert (result.changes is not None) == (code == 0)


@pytest.mark.parametrize("lives", [[Life.SILENT], [Life.STILLBORN], [Life.SILENT, Life.STILLBORN]])
def test_a_machine_that_does_not_come_to_life_is_tried_again(tmp_path: Path, lives: list[Life]) -> None:
    box = MicroVmSandbox(FakeHypervisor(lives), tmp_path)
    with box.execute(EXECUTION, lambda *_: None, threading.Event()) as result:
        assert result.code == 0
    assert box.starts == len(lives) + 1


def test_three_failures_to_come_to_life_are_an_error_with_the_last_words(tmp_path: Path) -> None:
    box = MicroVmSandbox(FakeHypervisor([Life.SILENT] * 3, FakeCommand(console="on the console")), tmp_path)
    with pytest.raises(HostError) as caught, box.execute(EXECUTION, lambda *_: None, threading.Event()):
        pytest.fail("it never lived")
    assert caught.value.code == "vm-silent"
    assert "on the console" in caught.value.message
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(("console", "code"), [("bye", "vm-died"), ("Kernel panic - not syncing: sysrq", "vm-panic")])
def test_a_machine_that_dies_under_a_command_is_not_tried_again(tmp_path: Path, console: str, code: str) -> None:
    box = MicroVmSandbox(FakeHypervisor([Life.DIES], FakeCommand(console=console)), tmp_path)
    with pytest.raises(HostError) as caught, box.execute(EXECUTION, lambda *_: None, threading.Event()):
        pytest.fail("it died")
    assert caught.value.code == code
    assert console in caught.value.message
    assert box.starts == 1


def test_a_guest_that_falls_silent_under_a_command_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "_PULSE", 0.1)
    monkeypatch.setattr(channel_module, "_PATIENCE", 0.3)
    box = MicroVmSandbox(FakeHypervisor([Life.STUCK]), tmp_path)
    with pytest.raises(HostError) as caught, box.execute(EXECUTION, lambda *_: None, threading.Event()):
        pytest.fail("it was stuck")
    assert caught.value.code == "vm-protocol"


def test_a_kernel_that_gave_up_for_want_of_memory_is_no_breakdown(tmp_path: Path) -> None:
    does = FakeCommand(console="Kernel panic - not syncing: System is deadlocked on memory")
    box = MicroVmSandbox(FakeHypervisor([Life.DIES], does), tmp_path)
    with box.execute(EXECUTION, lambda *_: None, threading.Event()) as result:
        assert result.ending is Ending.OUT_OF_MEMORY


def test_nothing_starts_after_a_cancellation(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    for box in (MicroVmSandbox(FakeHypervisor(), tmp_path), FakeSandbox(lambda _: (0, b"", b""))):
        with pytest.raises(InterruptedBuildError), box.execute(EXECUTION, lambda *_: None, cancelled):
            pytest.fail("it was cancelled")
        assert box.starts == 0


def test_a_step_without_a_network_gets_one_that_leads_nowhere(tmp_path: Path) -> None:
    import dataclasses

    hypervisor = FakeHypervisor()
    lonely = dataclasses.replace(EXECUTION, network=NetworkMode.NONE)
    with MicroVmSandbox(hypervisor, tmp_path).execute(lonely, lambda *_: None, threading.Event()):
        assert hypervisor.attachments[0].restrict


def test_the_fake_sandbox_runs_a_function() -> None:
    box = FakeSandbox(lambda execution: (len(execution.argv), b"said", b"changes"))
    said: list[bytes] = []
    with box.execute(EXECUTION, lambda _, data: said.append(data), threading.Event()) as result:
        assert (result.code, result.changes, said) == (1, None, [b"said"])
    assert box.executions == [EXECUTION]


def test_a_guest_that_does_not_hear_that_its_time_is_over_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_KILL_TIMEOUT", 0.2)
    box = MicroVmSandbox(FakeHypervisor([Life.STUCK]), tmp_path)
    with box.execute(replace(EXECUTION, timeout=0.1), lambda *_: None, threading.Event()) as result:
        assert (result.ending, result.caches_whole) == (Ending.TIMED_OUT, False)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(("name", "most"), [("changes", "_SLACK"), ("serial.log", "_MOST_LOGGED")])
def test_a_machine_that_writes_more_than_it_may_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: str
) -> None:
    monkeypatch.setattr(runfolder, "_LOOK", 0.0)
    monkeypatch.setattr(runfolder, most, 1 << 20)
    shape = MachineShape(disk=1 << 20)
    hypervisor = FakeHypervisor(does=FakeCommand(output=[(1, b"x")]))
    box = MicroVmSandbox(hypervisor, tmp_path)

    def write(_: int, data: bytes) -> None:
        with (hypervisor.attachments[0].folder / name).open("r+b" if name == "changes" else "wb") as file:
            file.write(os.urandom(4 << 20))
            os.fsync(file.fileno())

    with pytest.raises(HostError) as caught, box.execute(replace(EXECUTION, shape=shape), write, threading.Event()):
        pytest.fail("it wrote too much")
    assert caught.value.code == "vm-disk-exceeded"
    assert "4 MiB" in caught.value.message
    assert not list((tmp_path / "run").iterdir())


def test_an_agent_that_speaks_nonsense_while_it_is_set_up_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def live(machine: FakeMachine, frame: Frame) -> None:
        if frame.op == Op.HELLO:
            machine._guest.sendall(Frame(77, frame.tag).encode())

    monkeypatch.setattr(FakeMachine, "_live", live)
    box = MicroVmSandbox(FakeHypervisor(), tmp_path)
    with pytest.raises(HostError) as caught, box.execute(EXECUTION, lambda *_: None, threading.Event()):
        pytest.fail("it was not understood")
    assert caught.value.code == "vm-protocol"
    assert not list((tmp_path / "run").iterdir())
