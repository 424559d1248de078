"""Layers that have no slot of their disk, and folders that were there before the step."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from vm_support import SHAPE, LayerBuilder, Runner

from engine.vm.disks import LAYER_LIMIT
from engine.vm.execution import Execution, FixedClock
from engine.vm.mounts import BindMount

pytestmark = pytest.mark.vm


def test_as_many_layers_as_there_may_be_are_read(run: Runner, tmp_path: Path) -> None:
    layers = []
    for number in range(LAYER_LIMIT - 1):  # and the base
        layer = LayerBuilder().add(f"from{number}", content=b"x").add("last", content=b"%d" % number)
        layers.append(layer.write(tmp_path / f"{number}.sqfs"))
    ran = run("ls -d /from* | wc -l; cat /last; echo new > /new", layers)
    assert ran.text == f"{LAYER_LIMIT - 1}\n{LAYER_LIMIT - 2}"
    assert ran.changes["new"].content == b"new\n"


def test_a_step_finds_its_disk_empty_and_as_old_as_its_topmost_layer(run: Runner) -> None:
    ran = run("df -i / | tail -1 | tr -s ' ' | cut -d' ' -f3; stat -c %Y /; ls -A /tmp | wc -l")
    used, made, left = ran.text.split()
    assert int(used) < 40, "of the inodes: those of ext4 itself, of the overlay, and of this step's folders"
    assert (made, left) == ("0", "0")


def test_a_root_without_a_layer_is_as_old_as_the_step(run: Runner) -> None:
    argv = ("/tools/bin/busybox", "stat", "-c", "%Y %a %u", "/")
    mounts = (BindMount("/tools", (run.base,)),)
    execution = Execution((), argv, (), shape=SHAPE, mounts=mounts, clock=FixedClock(1_234_567_890, held=True))
    said: list[bytes] = []
    with run.sandbox.execute(execution, lambda _, data: said.append(data), threading.Event()) as result:
        assert result.code == 0
    assert b"".join(said) == b"1234567890 755 0\n"
