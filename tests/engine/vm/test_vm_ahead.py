"""Machines that are restored while the command before theirs runs."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from vm_support import LayerBuilder, Runner

from engine.vm import sandbox as sandbox_module
from engine.vm.disks import SPARE_SIZE
from engine.vm.execution import SPARE_LAYERS, Execution
from engine.vm.fake import FakeCommand, FakeHypervisor, Life
from engine.vm.protocol import Op, Values
from engine.vm.sandbox import MicroVmSandbox
from machinefile.steps import MachineShape, NetworkMode

FIRST = Execution((), ("true",), (("PATH", "/bin"),), shape=MachineShape(disk=64 << 20))


def layers(folder: Path, count: int, size: int = 4096) -> tuple[Path, ...]:
    made = []
    for number in range(count):
        made.append(folder / f"{number}.squashfs")
        with made[-1].open("wb") as file:
            file.write(b"%d" % number)
            file.truncate(size)
    return tuple(made)


def do(box: MicroVmSandbox, execution: Execution) -> None:
    with box.execute(execution, lambda *_: None, threading.Event()) as result:
        assert result.code == 0


def mounted(hypervisor: FakeHypervisor, machine: int) -> list[str]:
    """The folders that a machine mounted layers at."""
    frames = [frame for frame in hypervisor.machines[machine].commands if frame.op == Op.MOUNT]
    rows = [[values.text() for _ in range(4)] for values in map(Values, (frame.payload for frame in frames))]
    return [row[2] for row in rows if row[3] == "squashfs"]


def test_the_machine_of_the_next_command_waits_for_it_with_the_layers_that_were_known(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path / "vm")
    bottom, top = layers(tmp_path, 2)
    first = replace(FIRST, disks=(bottom,))
    do(box, replace(first, then=first.outlook))
    do(box, replace(first, disks=(bottom, top)))
    assert len(hypervisor.machines) == box.starts == 2
    orders = [frame.op for frame in hypervisor.machines[1].commands]
    assert mounted(hypervisor, 1) == ["/l/1", "/l/2"]
    assert orders[:3] == [Op.HELLO, Op.RESEED, Op.SET_CLOCK]
    # It may have stood for long: it is made different from its siblings and told the time once more.
    seeded = [at for at, op in enumerate(orders) if op == Op.RESEED]
    assert len(seeded) == 2
    assert orders.index(Op.PARTITION) < seeded[1] < orders.index(Op.SPAWN)
    assert not list((tmp_path / "vm" / "run").iterdir())


def test_what_comes_on_top_is_on_the_disk_that_the_machine_has(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor(does=FakeCommand(output=[(1, b"x")]))
    box = MicroVmSandbox(hypervisor, tmp_path / "vm")
    bottom, one, two = layers(tmp_path, 3)
    do(box, replace(FIRST, disks=(bottom,), then=replace(FIRST.outlook, disks=(bottom,))))
    seen: list[bytes] = []

    def look(*_: object) -> None:
        folder = hypervisor.attachments[1].folder
        seen.extend((folder / f"spare-{number}").read_bytes()[:1] for number in range(2))

    with box.execute(replace(FIRST, disks=(bottom, one, two)), look, threading.Event()):
        assert seen == [b"1", b"2"]


@pytest.mark.parametrize(
    "other",
    [
        replace(FIRST, network=NetworkMode.NONE),
        replace(FIRST, shape=replace(FIRST.shape, cpus=4)),
        replace(FIRST, hosts=(("a", "1.2.3.4"),)),
        replace(FIRST, loopback_ports=frozenset({80})),
    ],
    ids=["network", "shape", "hosts", "ports"],
)
def test_a_machine_that_was_made_for_another_command_is_not_taken(tmp_path: Path, other: Execution) -> None:
    hypervisor = FakeHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path)
    do(box, replace(FIRST, then=FIRST.outlook))
    do(box, other)
    box.forget()
    assert (len(hypervisor.machines), box.starts) == (3, 2)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(("count", "size"), [(SPARE_LAYERS + 1, 512), (1, SPARE_SIZE + 512)], ids=["many", "large"])
def test_more_than_there_is_room_for_gets_a_machine_of_its_own(tmp_path: Path, count: int, size: int) -> None:
    hypervisor = FakeHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path / "vm")
    do(box, replace(FIRST, then=FIRST.outlook))
    do(box, replace(FIRST, disks=layers(tmp_path, count, size)))
    assert len(hypervisor.machines) == 3
    assert not list((tmp_path / "vm" / "run").iterdir())


@pytest.mark.parametrize("life", [Life.SILENT, Life.STILLBORN])
def test_one_that_died_while_it_waited_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, life: Life) -> None:
    monkeypatch.setattr(sandbox_module, "_ANSWER_TIMEOUT", 0.3)
    hypervisor = FakeHypervisor([Life.WELL, life])
    box = MicroVmSandbox(hypervisor, tmp_path)
    do(box, replace(FIRST, then=FIRST.outlook))
    do(box, FIRST)
    assert len(hypervisor.machines) == 3
    assert not list((tmp_path / "run").iterdir())


def test_no_more_than_two_wait_and_none_is_left(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path)
    for number in range(4):
        awaited = replace(FIRST.outlook, loopback_ports=frozenset({number + 1}))
        do(box, replace(FIRST, then=awaited))
    assert len(list((tmp_path / "run").iterdir())) <= 3  # one of them may be about to go
    box.forget()
    assert not list((tmp_path / "run").iterdir())
    assert len(hypervisor.machines) == 8


@pytest.mark.vm
def test_a_command_runs_on_layers_that_came_after_its_machine(run: Runner, tmp_path: Path) -> None:
    top = LayerBuilder()
    top.add("made", content=b"on top\n")
    top.whiteout("etc")
    there = run("true", then=run.execution("").outlook)
    assert there.code == 0
    before = run.sandbox.starts
    ran = run("cat /made; ls -d /etc; date +%s; echo new > /new", [top.write(tmp_path / "top.squashfs")])
    made, since = ran.text.splitlines()[0], int(ran.text.splitlines()[-1])
    assert made == "on top"
    assert since > 1_700_000_000
    assert "new" in ran.changes
    assert "made" not in ran.changes
    assert run.sandbox.starts == before + 1
