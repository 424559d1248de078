"""What this machine has of what microVMs need."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from engine import process
from engine.vm.accelerator import Accelerator, demanded
from engine.vm.agent import agent_path
from engine.vm.kernel import find_kernel
from engine.vm.qemu import find_qemu
from machinefile.errors import MbuildError
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    detail: str
    mend: str = ""
    """What to do about it; empty when nothing is wrong."""


def checks(vm_dir: Path, *, probe: bool = False) -> tuple[Check, ...]:
    """Look at everything that microVMs need. With `probe`, find out the accelerator by booting where that is not
    known yet, which takes up to some seconds."""
    return (
        _attempt("qemu", _qemu),
        _attempt("kernel", _kernel),
        _program("tar2sqfs", "squashfs-tools-ng"),
        _program("mke2fs", "e2fsprogs"),
        _program("setpriv", "util-linux"),
        _attempt("agent", lambda: str(agent_path())),
        _attempt("accelerator", lambda: _accelerator(vm_dir, probe)),
    )


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except MbuildError as error:
        return Check(name, False, error.message, error.hint)


def _qemu() -> str:
    qemu = find_qemu()
    return f"{qemu.version} at {qemu.program}"


def _kernel() -> str:
    kernel = find_kernel()
    return f"{kernel.version} at {kernel.image}"


def _program(name: str, package: str) -> Check:
    path = process.find(name)
    if path is None:
        return Check(name, False, f"{name} is not installed", f"run: sudo apt-get install {package}")
    return Check(name, True, path)


def _accelerator(vm_dir: Path, probe: bool) -> str:
    from engine.vm.verdict import decide, remembered

    wanted = demanded()
    if wanted is not None:
        return f"{wanted.value}, because MBUILD_ACCEL says so"
    qemu, kernel = find_qemu(), find_kernel()
    if probe:
        vm_dir.mkdir(parents=True, exist_ok=True)
        verdict = decide(vm_dir, qemu, kernel, threading.Event())
    else:
        known = remembered(vm_dir, qemu, kernel)
        if known is None:
            return "not known yet: the first build finds out whether KVM works here"
        verdict = known
    if verdict.accelerator is Accelerator.KVM:
        return "kvm"
    return f"tcg: {verdict.reason}"
