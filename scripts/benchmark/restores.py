"""Restores one microVM in this process and prints what it took: python -m benchmark.restores STORE WHAT

WHAT is `template`, or the digest of a machine with a web server. What Python takes to start is no part of it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from benchmark.machine import Subject
from engine.vm.channel import Channel
from engine.vm.hypervisor import Attachments
from engine.vm.qemu import QemuHypervisor
from engine.vm.runfolder import run_folder
from engine.vm.template import greet, watcher
from machinefile.steps import MachineShape


def template(vm_folder: Path) -> dict[str, float]:
    """Seconds from before QEMU's start to the agent's first answer, for the template that every RUN starts from."""
    never = threading.Event()
    hypervisor = QemuHypervisor(vm_folder)
    frozen = hypervisor.template(MachineShape(), never)
    with run_folder(vm_folder / "run") as folder:
        begun = time.monotonic()
        with hypervisor.restore(frozen, Attachments(folder)) as machine:
            greet(Channel(machine.agent, watcher(machine, never)), 30)
            return {"template": time.monotonic() - begun}


def machine(store: str, digest: str) -> dict[str, float]:
    """Seconds to the agent's answer, and to a page from the web server."""
    agent, page = Subject(Path(store), digest).answer()
    return {"agent": agent, "page": page}


if __name__ == "__main__":
    folder, what = sys.argv[1:]
    print(json.dumps(template(Path(folder) / "vm") if what == "template" else machine(folder, what)))
