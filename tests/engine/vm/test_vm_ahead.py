"""Machines that are restored while the command before theirs runs."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from vm_support import LayerBuilder, Runner

from engine.vm import ahead as ahead_module
from engine.vm import sandbox as sandbox_module
from engine.vm.accelerator import Accelerator
from engine.vm.ahead import Ahead
from engine.vm.awake import Waker
from engine.vm.disks import LAYER_LIMIT, SPARE_SIZE
from engine.vm.execution import SPARE_LAYERS, Execution
from engine.vm.fake import FakeCommand, FakeHypervisor, FakeMachine, Life
from engine.vm.hypervisor import Attachments, Template
from engine.vm.kernel import GuestKernel
from engine.vm.protocol import Op, Values
from engine.vm.qemu import Qemu, QemuHypervisor
from engine.vm.sandbox import MicroVmSandbox
from engine.vm.template import TemplateMaker
from machinefile.errors import HostError, InterruptedBuildError
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


def all_are_there(box: MicroVmSandbox) -> None:
    """Wait for the machines that are restored ahead."""
    for one in box._ahead._waiting:
        one.awake.result(30)


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
    assert orders.index(Op.MOUNT) < seeded[1] < orders.index(Op.SPAWN)
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
    all_are_there(box)
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
        all_are_there(box)
    assert len(list((tmp_path / "run").iterdir())) <= 3  # one of them may be about to go
    box.forget()
    assert not list((tmp_path / "run").iterdir())
    assert len(hypervisor.machines) == 8


class SlowHypervisor(FakeHypervisor):
    """Makes templates for as long as it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.abandoned = False

    def template(self, shape: MachineShape, cancelled: threading.Event) -> Template:
        self.begun.set()
        self.abandoned = cancelled.wait(30)
        raise InterruptedBuildError


def test_whoever_waits_for_a_template_that_is_made_ahead_can_be_stopped(tmp_path: Path) -> None:
    hypervisor = SlowHypervisor()
    ahead = Ahead(Waker(hypervisor, tmp_path, tmp_path / "run"))
    ahead.expect(FIRST.outlook, threading.Event())
    assert hypervisor.begun.wait(30)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(InterruptedBuildError):
        ahead.take(FIRST, stopped)
    ahead.forget()
    assert hypervisor.abandoned
    assert hypervisor.machines == []


def test_none_is_restored_for_a_build_that_is_stopped(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path)
    stopped = threading.Event()
    stopped.set()
    box.expect(FIRST.outlook, stopped)
    box.forget()
    assert hypervisor.machines == []


def test_what_is_expected_is_begun_before_anything_else_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead_module, "_HEAD_START", 30.0)
    hypervisor = FakeHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path)
    box.expect(FIRST.outlook, threading.Event())
    assert len(hypervisor.machines) == 1
    box.forget()


class FailingHypervisor(FakeHypervisor):
    """Has no room for the first machine."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = threading.Event()

    def restore(self, template: Template, attachments: Attachments) -> AbstractContextManager[FakeMachine]:
        if not self.failed.is_set():
            self.failed.set()
            raise OSError(28, "No space left on device")
        return super().restore(template, attachments)


@pytest.mark.parametrize("taken", [False, True])
def test_one_that_cannot_be_restored_is_in_nobodys_way(tmp_path: Path, taken: bool) -> None:
    hypervisor = FailingHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path)
    for _ in range(2):
        box.expect(FIRST.outlook, threading.Event())
    assert hypervisor.failed.wait(30)
    if taken:
        do(box, FIRST)
    box.forget()
    assert not list((tmp_path / "run").iterdir())


def test_a_root_has_no_more_layers_on_a_machine_that_waited(tmp_path: Path) -> None:
    hypervisor = FakeHypervisor()
    box = MicroVmSandbox(hypervisor, tmp_path / "vm")
    disks = layers(tmp_path, LAYER_LIMIT + 1, 512)
    box.expect(replace(FIRST.outlook, disks=disks[:-1]), threading.Event())
    with pytest.raises(HostError, match="takes 250 at most"):
        do(box, replace(FIRST, disks=disks))


def test_a_template_that_another_thread_makes_is_not_waited_for_by_who_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, enough = threading.Event(), threading.Event()

    def get(maker: TemplateMaker, shape: MachineShape, *_: object) -> Template:
        making.set()
        enough.wait(30)
        return Template(tmp_path, shape, Accelerator.TCG)

    monkeypatch.setattr(TemplateMaker, "get", get)
    hypervisor = QemuHypervisor(tmp_path)
    hypervisor._qemu, hypervisor._kernel = Qemu("qemu", "7.2"), GuestKernel("6.1", tmp_path, ())
    hypervisor._accelerator = Accelerator.TCG
    other = threading.Thread(target=hypervisor.template, args=(FIRST.shape, threading.Event()))
    other.start()
    making.wait(30)
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(InterruptedBuildError):
        hypervisor.template(replace(FIRST.shape, cpus=4), stopped)
    enough.set()
    other.join(30)


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
