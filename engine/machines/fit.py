"""Whether a machine fits this host."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path

from engine.machines.manifest import MachineManifest, Situation
from engine.vm.accelerator import Accelerator
from engine.vm.qemu import QemuHypervisor
from engine.vm.qemu_argv import ARGV_VERSION
from machinefile.errors import HostError
from machinefile.platform import native


def situation_of(hypervisor: QemuHypervisor, cancelled: threading.Event) -> Situation:
    """What machines made here fit. Raises HostError, UsageError, InterruptedBuildError."""
    accelerator = hypervisor.accelerator(cancelled)
    return Situation(
        architecture=native().architecture,
        accelerator=accelerator.value,
        cpu=_cpu(accelerator),
        qemu=hypervisor.qemu.version,
        hardware=ARGV_VERSION,
    )


def _cpu(accelerator: Accelerator) -> str:
    """The guest's processor: under KVM that is the host's, with all that it can do."""
    if accelerator is not Accelerator.KVM:
        return accelerator.cpu
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return accelerator.cpu
    found = {name: re.search(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE) for name in ("model name", "flags")}
    model, flags = (match[1].strip() if match else "" for match in found.values())
    return f"{model} ({hashlib.sha256(flags.encode()).hexdigest()[:12]})"


def misfit(manifest: MachineManifest, here: Situation, name: str) -> str:
    """Why a machine cannot be restored here, empty if it can.

    Raises HostError (`machine-foreign`) where it could not even be booted from its disk.
    """
    theirs = manifest.situation
    if theirs.architecture != here.architecture:
        raise HostError(
            f"the machine {name} is for {theirs.architecture}, and this machine is {here.architecture}",
            code="machine-foreign",
            hint=f"build it here, or run it on a machine that is {theirs.architecture}",
        )
    return theirs.difference(here)
