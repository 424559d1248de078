"""Machines frozen with a program in them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from vm_support import SHAPE, make_sandbox

from engine.vm.execution import Ending, Execution
from engine.vm.freezer import Freezer
from engine.vm.restored import Identity, restore
from engine.vm.starting import Starting

pytestmark = pytest.mark.vm

SCRIPT = """
trap 'echo told; exit 9' USR1
i=0
while :; do i=$((i + 1)); echo $i; sleep 0.1; done
"""


def test_a_program_goes_on_where_it_stood_and_takes_signals(vm_dir: Path, base_layer: Path, tmp_path: Path) -> None:
    sandbox = make_sandbox(vm_dir)
    folder = tmp_path / "machine"
    folder.mkdir()
    execution = Execution(
        disks=(base_layer,),
        argv=("/bin/sh", "-c", SCRIPT),
        environment=(("PATH", "/bin"),),
        shape=SHAPE,
    )
    before: list[bytes] = []
    checks: list[int] = []

    def wait(starting: Starting) -> None:
        while b"".join(before).count(b"\n") < 3:
            starting.pause(0.05)
        result, said = starting.check(("/bin/sh", "-c", "ps; exit 4"), 30)
        assert result is not None
        assert b"while :" in said, "a check sees the program's processes"
        checks.append(result.code)
        assert starting.check(("/bin/sleep", "60"), 0.2)[0] is None

    cancelled = threading.Event()
    freezer = Freezer(sandbox.hypervisor, vm_dir)
    frozen = freezer.freeze(execution, wait, folder, lambda stream, data: before.append(data), cancelled)
    assert checks == [4]
    reached = int(b"".join(before).split()[-1])
    for _ in range(2):
        after: list[bytes] = []
        signals = [10]

        def heard(after: list[bytes] = after, signals: list[int] = signals) -> list[int]:
            return [signals.pop()] if signals and b"".join(after).count(b"\n") >= 2 else []

        with restore(
            frozen,
            sandbox.hypervisor.qemu.program,
            vm_dir,
            Identity.fresh(),
            cancelled,
            on_signal=heard,
            tap=lambda stream, data, after=after: after.append(data),  # type: ignore[misc]
        ) as restored:
            result = restored.wait(lambda stream, data, after=after: after.append(data))  # type: ignore[misc]
        lines = b"".join(after).split()
        assert int(lines[0]) == reached + 1, "no line is lost and none said twice"
        assert lines[-1] == b"told"
        assert (result.ending, result.code) == (Ending.EXITED, 9)
