"""How a microVM can come to its end before its time, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from vm_support import SHAPE, Runner, processes_in

from engine.vm.doctor import checks
from engine.vm.execution import Ending
from machinefile.errors import HostError, InterruptedBuildError

pytestmark = pytest.mark.vm
PROJECT = Path(__file__).parents[3]


def _nothing_left(vm_dir: Path) -> bool:
    return not list(processes_in(vm_dir / "run")) and not list((vm_dir / "run").iterdir())


def test_cancelling_ends_the_step_at_once_and_leaves_nothing(run: Runner, vm_dir: Path) -> None:
    cancelled = threading.Event()
    running = run.execution("echo started; sleep 100")
    timer: list[float] = []

    def stop(_: int, data: bytes) -> None:
        timer.append(time.monotonic())
        cancelled.set()

    with pytest.raises(InterruptedBuildError), run.sandbox.execute(running, stop, cancelled):
        pytest.fail("it was cancelled")
    assert time.monotonic() - timer[0] < 2
    assert _nothing_left(vm_dir)


def test_a_process_killed_for_memory_is_told(run: Runner) -> None:
    ran = run("x=x; while :; do x=$x$x; done")
    assert ran.ending is Ending.OUT_OF_MEMORY


def test_a_full_disk_is_told(run: Runner) -> None:
    ran = run("dd if=/dev/zero of=/fill bs=1M")
    assert (ran.ending, ran.code) == (Ending.OUT_OF_DISK, 1)
    assert b"No space left" in ran.err


def test_a_guest_that_panics_is_told_with_its_last_words(run: Runner, vm_dir: Path) -> None:
    with pytest.raises(HostError) as caught:
        run("echo c > /proc/sysrq-trigger; sleep 20", privileged=True)
    assert caught.value.code == "vm-panic"
    assert "sysrq" in caught.value.message
    assert _nothing_left(vm_dir)


def test_a_qemu_that_is_killed_is_told(run: Runner, vm_dir: Path) -> None:
    def kill(_: int, data: bytes) -> None:
        for process in processes_in(vm_dir / "run"):
            os.kill(process, signal.SIGKILL)

    with (
        pytest.raises(HostError) as caught,
        run.sandbox.execute(run.execution("echo x; sleep 100"), kill, threading.Event()),
    ):
        pytest.fail("it was killed")
    assert caught.value.code == "vm-died"


PROGRAM = """
import pathlib, sys, threading
from engine.vm.execution import Execution
from engine.vm.sandbox import QemuSandbox
from machinefile.steps import MachineShape
execution = Execution((pathlib.Path(sys.argv[2]),), ("/bin/sh", "-c", sys.argv[3]), (("PATH", "/bin"),),
                      shape=MachineShape(*map(int, sys.argv[4:])))
def say(stream, data):
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
with QemuSandbox(pathlib.Path(sys.argv[1])).execute(execution, say, threading.Event()) as result:
    sys.exit(result.code)
"""


def _argv(vm_dir: Path, layer: Path, script: str) -> list[str]:
    shape = [str(SHAPE.cpus), str(SHAPE.memory), str(SHAPE.disk)]
    return [sys.executable, "-c", PROGRAM, str(vm_dir), str(layer), script, *shape]


def test_killing_mbuild_leaves_no_qemu_and_the_next_run_sweeps_up(run: Runner, vm_dir: Path) -> None:
    run("true")  # the template is there
    argv = _argv(vm_dir, run.base, "echo up; sleep 100")
    with subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        assert list(processes_in(vm_dir / "run"))
        child.kill()
    deadline = time.monotonic() + 5
    while list(processes_in(vm_dir / "run")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(processes_in(vm_dir / "run"))
    assert list((vm_dir / "run").iterdir()), "what it left is swept by the next"
    done = subprocess.run(_argv(vm_dir, run.base, "exit 5"), cwd=PROJECT, timeout=60, check=False)
    assert done.returncode == 5
    assert _nothing_left(vm_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up its rights")
def test_it_works_as_nobody_without_any_rights(run: Runner, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Path("/var/tmp") / f"mbuild-test-{os.getpid()}"
    kernel = store / "kernel"
    kernel.mkdir(parents=True)
    layer = store / "base.sqfs"
    try:
        layer.write_bytes(run.base.read_bytes())
        store.chmod(0o777)
        drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]
        drop += ["--inh-caps=-all", "--bounding-set=-all"]
        script = "test $(id -u) = 0 && mknod /x c 1 3 && nc -w1 10.0.2.2 1; touch /ok && exit 9"
        done = subprocess.run(
            [*drop, *_argv(store / "vm", layer, script)],
            cwd=PROJECT,
            timeout=120,
            check=False,
            env={**os.environ, "HOME": str(store), "PYTHONDONTWRITEBYTECODE": "1"},
            stderr=subprocess.PIPE,
        )
        assert done.returncode == 9, done.stderr.decode()
    finally:
        subprocess.run(["rm", "-rf", str(store)], check=True, timeout=60)


def test_the_doctor_finds_everything(run: Runner, vm_dir: Path) -> None:
    found = {check.name: check for check in checks(vm_dir)}
    assert set(found) == {"qemu", "kernel", "tar2sqfs", "mke2fs", "setpriv", "agent", "accelerator"}
    assert all(check.ok and not check.mend for check in found.values()), found
