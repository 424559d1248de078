"""What runs steps on this machine, by version: for provenance."""

from __future__ import annotations

import hashlib
from pathlib import Path

from engine.vm.agent import agent_path
from engine.vm.kernel import find_kernel
from engine.vm.qemu import find_qemu
from machinefile.imageconfig import Pairs


def versions(vm_dir: Path) -> Pairs:
    """Of the guest's kernel, its agent (a digest: it has no version of its own) and QEMU. Raises HostError."""
    agent = hashlib.sha256(agent_path().read_bytes()).hexdigest()
    return (("agent", f"sha256:{agent}"), ("kernel", find_kernel().version), ("qemu", find_qemu(vm_dir).version))
