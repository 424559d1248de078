"""Which accelerator works here, found out by booting, and remembered.

VM_DIR/accelerator.json   {"boot": ..., "qemu": ..., "kernel": ..., "accelerator": "tcg", "reason": "..."}
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from engine.vm.accelerator import Accelerator, demanded
from engine.vm.agent import agent_path
from engine.vm.channel import Channel, GuestGoneError, SilentGuestError
from engine.vm.initramfs import build_initramfs
from engine.vm.kernel import GuestKernel
from engine.vm.protocol import ProtocolError
from engine.vm.qemu import Qemu, start
from engine.vm.qemu_argv import MachineSpec, kernel_cmdline
from engine.vm.runfolder import file_lock, run_folder
from engine.vm.template import greet, watcher
from machinefile.values import dataclass

_MEMORY = 256 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """The accelerator to use, and why."""

    accelerator: Accelerator
    reason: str
    """For the user; empty when there is nothing to say."""
    fresh: bool = False
    """Whether it was found out just now."""


def decide(vm_dir: Path, qemu: Qemu, kernel: GuestKernel, cancelled: threading.Event) -> Verdict:
    """MBUILD_ACCEL, the remembered verdict, or a new one by booting with KVM for some seconds.

    Raises UsageError, HostError `agent-missing`, InterruptedBuildError.
    """
    wanted = demanded()
    if wanted is not None:
        return Verdict(wanted, "MBUILD_ACCEL says so")
    with file_lock(vm_dir / "accelerator.lock", cancelled):
        known = remembered(vm_dir, qemu, kernel)
        if known is not None:
            return known
        failure = _try_kvm(vm_dir, qemu, kernel, cancelled)
        if failure:
            reason = f"{failure}; microVMs run in software emulation (tcg), which is slower"
            verdict = Verdict(Accelerator.TCG, reason, fresh=True)
        else:
            verdict = Verdict(Accelerator.KVM, "", fresh=True)
        _remember(vm_dir, qemu, kernel, verdict)
    return verdict


def remembered(vm_dir: Path, qemu: Qemu, kernel: GuestKernel) -> Verdict | None:
    """What was found out since this host booted, with this QEMU and kernel."""
    try:
        record = json.loads((vm_dir / "accelerator.json").read_bytes())
        if {name: record[name] for name in ("boot", "qemu", "kernel")} != _situation(qemu, kernel):
            return None
        return Verdict(Accelerator(record["accelerator"]), str(record["reason"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(vm_dir: Path, qemu: Qemu, kernel: GuestKernel, verdict: Verdict) -> None:
    record = {**_situation(qemu, kernel), "accelerator": verdict.accelerator.value, "reason": verdict.reason}
    new = vm_dir / f".accelerator.{os.getpid()}"
    new.write_text(json.dumps(record))
    new.replace(vm_dir / "accelerator.json")


def _situation(qemu: Qemu, kernel: GuestKernel) -> dict[str, str]:
    # Whether /dev/kvm may be opened belongs to it: another user may have other rights in the same store.
    access = "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "no kvm"
    return {"boot": f"{_boot_id()} {access}", "qemu": qemu.version, "kernel": kernel.version}


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _try_kvm(vm_dir: Path, qemu: Qemu, kernel: GuestKernel, cancelled: threading.Event) -> str:
    """Why KVM cannot be used, or an empty text: that /dev/kvm is there proves nothing."""
    if not os.path.exists("/dev/kvm"):
        return "this machine has no /dev/kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "this user may not open /dev/kvm"
    with run_folder(vm_dir / "run") as folder:
        (folder / "initrd").write_bytes(build_initramfs(kernel, agent_path().read_bytes()))
        with (folder / "ram").open("wb") as ram:
            ram.truncate(_MEMORY)
        spec = MachineSpec(
            qemu=qemu.program,
            accelerator=Accelerator.KVM,
            cpus=1,
            memory=_MEMORY,
            ram="ram",
            share=True,
            kernel=str(kernel.image),
            initrd="initrd",
            cmdline=kernel_cmdline(Accelerator.KVM, 0),
            qmp_fd=-1,
            agent_fd=-1,
        )
        with start(spec, folder) as machine:
            try:
                greet(Channel(machine.agent, watcher(machine, cancelled)), Accelerator.KVM.boot_timeout)
            except (SilentGuestError, ProtocolError):
                return "a microVM hangs in this machine's KVM"
            except GuestGoneError:
                return "a microVM does not start in this machine's KVM"
    return ""
