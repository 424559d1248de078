"""QEMU as the hypervisor: its processes, and what is known of it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from engine import process
from engine.events import Note, Observer, ignore
from engine.vm.accelerator import Accelerator
from engine.vm.hypervisor import Attachments, Autopsy, Template
from engine.vm.kernel import GuestKernel, find_kernel
from engine.vm.known import known
from engine.vm.network.pump import Pump, Wires, open_wires
from engine.vm.qemu_argv import MachineSpec, qemu_argv
from engine.vm.qmp import request
from machinefile.errors import HostError, InterruptedBuildError
from machinefile.steps import MachineShape
from machinefile.values import dataclass

PROGRAM = "qemu-system-x86_64"
HINT = "run: sudo apt-get install qemu-system-x86"
_SHOWN = 2000
"""Characters of a log that an error shows."""
_READ = 64 << 10
"""Bytes of a log's end that are looked through: what a panic dumps after its first line may be long."""
_POLL = 0.05
"""Seconds between two looks at `cancelled`."""
_PANIC = "Kernel panic"


@dataclass(frozen=True, slots=True)
class Qemu:
    """An installed QEMU."""

    program: str
    version: str
    """`7.2.22`"""


def find_qemu(vm_dir: Path | None = None) -> Qemu:
    """The QEMU of this machine; its version is remembered in `vm_dir`. Raises HostError `program-missing`,
    `qemu-version`."""
    program = process.find(PROGRAM)
    if program is None:
        raise HostError(f"{PROGRAM} is not installed", code="program-missing", hint=HINT)
    if vm_dir is None:
        return Qemu(program, _version_of(program))
    return Qemu(program, known(vm_dir, "qemu", [Path(program)], lambda: _version_of(program)))


def _version_of(program: str) -> str:
    text = process.run([program, "--version"], timeout=20, hint=HINT).decode(errors="replace")
    found = re.search(r"version (\d+\.\d+(?:\.\d+)?)", text)
    if not found:
        raise HostError(f"{program} does not say its version", code="qemu-version", hint=HINT)
    return found[1]


class QemuMachine:
    """A running QEMU process and the host's ends of its sockets."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        agent: socket.socket,
        qmp: socket.socket,
        folder: Path,
        pump: Pump | None = None,
    ) -> None:
        self._child = child
        self._agent = agent
        self._folder = folder
        self._pump = pump
        self.qmp = qmp

    @property
    def agent(self) -> socket.socket:
        """Leads to the guest agent."""
        return self._agent

    @property
    def pid(self) -> int:
        """QEMU's."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether QEMU still runs, and its network with it."""
        return self._child.poll() is None and self._pump_failure is None

    @property
    def _pump_failure(self) -> Exception | None:
        return self._pump.failure if self._pump is not None else None

    def autopsy(self) -> Autopsy:
        """QEMU's messages and the end of the guest's console."""
        errors = _tail(self._folder / "qemu.err")
        if self._pump_failure is not None:
            errors = f"its network was closed: {self._pump_failure!r}\n{errors}"
        return Autopsy(errors, _tail(self._folder / "serial.log"))


def _tail(path: Path) -> str:
    """The end of a log; from where the kernel panicked, if it did."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _READ))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    text = "\n".join(line.rstrip() for line in text.splitlines() if line.strip())
    panic = text.find(_PANIC)
    return text[panic : panic + _SHOWN] if panic >= 0 else text[-_SHOWN:]


@contextmanager
def start(
    spec: MachineSpec, folder: Path, *, state: Path | None = None, wires: Wires | None = None
) -> Iterator[QemuMachine]:
    """Run QEMU in `folder`; with `state`, restore the machine from it. Leaving the context kills it.

    With `wires`, what the guest sends goes through their pump.

    The descriptors in `spec` are filled in here. The process dies with the calling thread.
    """
    with ExitStack() as stack:
        qmp, qmp_end = socket.socketpair()
        agent, agent_end = socket.socketpair()
        for end in (qmp, qmp_end, agent, agent_end):
            stack.callback(end.close)
        passed = [qmp_end.fileno(), agent_end.fileno()]
        if state is not None:
            file = stack.enter_context(state.open("rb"))
            passed.append(file.fileno())
            # All at once, before QEMU is there to read it: no time is lost on answers that are not needed.
            qmp.sendall(_restore_requests(file.fileno()))
        if wires is not None:
            outward, onward, back = (end.fileno() for end in wires.ends)
            spec = replace(spec, wires=(outward, onward, back))
            passed += [outward, onward, back]
        filled = replace(spec, qmp_fd=qmp_end.fileno(), agent_fd=agent_end.fileno(), incoming=state is not None)
        errors = stack.enter_context((folder / "qemu.err").open("wb"))
        child = process.spawn(
            qemu_argv(filled), stdout=subprocess.DEVNULL, stderr=errors, pass_fds=passed, cwd=folder, hint=HINT
        )
        stack.enter_context(process.running(child))
        qmp_end.close()
        agent_end.close()
        for end in wires.ends if wires is not None else ():
            end.close()
        yield QemuMachine(child, agent, qmp, folder, wires.pump if wires is not None else None)


ANSWERS_TO_RESTORE = 3
"""How many answers the QMP session of a restored machine begins with, for what was asked of it in advance."""


def _restore_requests(descriptor: int) -> bytes:
    ignore_shared = [{"capability": "x-ignore-shared", "state": True}]
    return (
        request("qmp_capabilities")
        + request("migrate-set-capabilities", capabilities=ignore_shared)
        + request("migrate-incoming", uri=f"fd:{descriptor}")
    )


class QemuHypervisor:
    """The hypervisor that QEMU is. `vm_dir` is its part of the store; see template.py for what lies there."""

    def __init__(self, vm_dir: Path, observer: Observer = ignore) -> None:
        self._vm_dir = vm_dir
        self._observer = observer
        self._lock = threading.Lock()
        self._qemu: Qemu | None = None
        self._kernel: GuestKernel | None = None
        self._accelerator: Accelerator | None = None
        self._templates: dict[MachineShape, Template] = {}

    @property
    def kernel(self) -> GuestKernel:
        """The guest's kernel. Raises HostError."""
        if self._kernel is None:
            self._kernel = find_kernel()
        return self._kernel

    @property
    def qemu(self) -> Qemu:
        """The QEMU in use. Raises HostError."""
        if self._qemu is None:
            self._qemu = find_qemu(self._vm_dir)
        return self._qemu

    def template(self, shape: MachineShape, cancelled: threading.Event) -> Template:
        """The template for a shape, made if it is not there yet. Raises HostError, InterruptedBuildError."""
        from engine.vm.template import TemplateMaker

        while not self._lock.acquire(timeout=_POLL):  # for another shape it may take a minute
            if cancelled.is_set():
                raise InterruptedBuildError
        try:
            if shape not in self._templates:
                maker = TemplateMaker(self._vm_dir, self.qemu, self.kernel, self._observer)
                self._templates[shape] = maker.get(shape, self.accelerator(cancelled), cancelled)
            return self._templates[shape]
        finally:
            self._lock.release()

    def template_key(self, shape: MachineShape, cancelled: threading.Event) -> str:
        """What the template for a shape is called, be it there or not. Raises HostError, InterruptedBuildError."""
        from engine.vm.template import TemplateMaker

        maker = TemplateMaker(self._vm_dir, self.qemu, self.kernel, self._observer)
        return maker.key(shape, self.accelerator(cancelled))

    def accelerator(self, cancelled: threading.Event) -> Accelerator:
        """How guests run here: as MBUILD_ACCEL says, or as a boot has shown. Raises HostError, UsageError."""
        from engine.vm.verdict import decide

        if self._accelerator is None:
            verdict = decide(self._vm_dir, self.qemu, self.kernel, cancelled)
            if verdict.fresh and verdict.reason:
                self._observer(Note(verdict.reason))
            self._accelerator = verdict.accelerator
        return self._accelerator

    @contextmanager
    def restore(self, template: Template, attachments: Attachments) -> Iterator[QemuMachine]:
        """Start a machine from a template; leaving the context ends it."""
        spec = MachineSpec(
            qemu=self.qemu.program,
            accelerator=template.accelerator,
            cpus=template.shape.cpus,
            memory=template.shape.memory,
            ram=str(template.ram),
            share=False,
            kernel=str(self.kernel.image),
            initrd=str(template.initrd),
            cmdline=template.cmdline,
            qmp_fd=-1,
            agent_fd=-1,
            layers=attachments.layers,
            writable=attachments.writable,
            restrict=attachments.restrict,
            ports=attachments.ports,
            quiet=not attachments.ports,
        )
        with ExitStack() as stack:
            wires = stack.enter_context(open_wires(attachments.gate)) if attachments.gate is not None else None
            yield stack.enter_context(start(spec, attachments.folder, state=template.state, wires=wires))
