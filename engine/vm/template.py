"""Templates: a machine booted once, made ready, and frozen in memory.

    VM_DIR/templates/KEY/    ram       the guest's memory, sparse
                             state     its devices
                             disk      the scratch disk that the guest has mounted, sparse
                             initrd    what it booted from
                             cmdline   what its kernel was told
                     KEY.new/          being made; left behind only by a death, and then made anew
                     KEY.lock          flocked while one is made, and, shared, by each process that uses one;
                                       written to then: its time is that of the last use

A finished folder is never changed.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cache.files import sync_tree
from engine.events import Note, Observer
from engine.vm import guest, guestdisks
from engine.vm.accelerator import Accelerator
from engine.vm.agent import agent_path
from engine.vm.channel import Channel, GuestFailureError, GuestGoneError, SilentGuestError
from engine.vm.disks import clone, dig_holes, scratch_image
from engine.vm.hypervisor import Autopsy, Template
from engine.vm.initramfs import build_initramfs
from engine.vm.inuse import keeps_in_use
from engine.vm.kernel import GuestKernel, module_name
from engine.vm.known import known
from engine.vm.protocol import PROTOCOL_VERSION, Op, ProtocolError, Values, command
from engine.vm.qemu import ANSWERS_TO_RESTORE, Qemu, QemuMachine, start
from engine.vm.qemu_argv import ARGV_VERSION, MachineSpec, kernel_cmdline
from engine.vm.qmp import Qmp, QmpError
from engine.vm.runfolder import file_lock, run_folder
from machinefile.errors import HostError, InterruptedBuildError
from machinefile.steps import MachineShape
from machinefile.values import dataclass

_BOOTS = 4
_CLOCK_SPAN = 2.5
"""Seconds over which the guest's clock is compared with the host's. Its network has said by then what it says when it
comes up, which restored machines would go on with."""
_CLOCK_TOLERANCE = 0.01
_DEFAULT_KHZ = 2_000_000
_RESTORE_TIMEOUT = 10.0
_BARE = "bare"
"""The state of the machine that has no disk yet."""


class BootError(Exception):
    """One boot did not come to its end."""

    def __init__(self, reason: str, autopsy: Autopsy) -> None:
        super().__init__(reason)
        self.reason = reason
        self.autopsy = autopsy


@dataclass(frozen=True, slots=True)
class TemplateMaker:
    """Gives templates, and makes those that are missing: one process makes a template, the others wait for it."""

    vm_dir: Path
    qemu: Qemu
    kernel: GuestKernel
    observer: Observer

    def get(self, shape: MachineShape, accelerator: Accelerator, cancelled: threading.Event) -> Template:
        """The template for a shape. Raises HostError `template-failed`, InterruptedBuildError."""
        agent = agent_path().read_bytes()
        folder = self.vm_dir / "templates" / self.key(shape, accelerator)
        template = Template(folder, shape, accelerator)

        def waiting() -> None:
            self.observer(Note("waiting for another mbuild that prepares microVMs"))

        while not keeps_in_use(folder, cancelled, waiting):
            with file_lock(folder.with_suffix(".lock"), cancelled):
                if not folder.is_dir():
                    self.observer(Note(f"preparing microVMs ({accelerator.value}); this is done once"))
                    self._make(template, build_initramfs(self.kernel, agent), cancelled)
        return template

    def key(self, shape: MachineShape, accelerator: Accelerator) -> str:
        """What tells the template for a shape from all others; it need not be there."""
        digest = hashlib.sha256()
        parts = [
            b"template 4",
            f"{ARGV_VERSION} {self.qemu.version} {accelerator.value} {shape.cpus} {shape.memory} {shape.disk}".encode(),
            self.kernel.version.encode(),
            self._kernel_digest().encode(),
            agent_path().read_bytes(),
            repr(guest.prepare([module_name(path) for path in self.kernel.modules])).encode(),
            repr(guestdisks.settle(shape.disk)).encode(),
        ]
        for part in parts:
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()[:20]

    def _kernel_digest(self) -> str:
        files = (self.kernel.image, *self.kernel.modules)

        def digest() -> str:
            return hashlib.sha256(b"".join(map(_file_digest, files))).hexdigest()

        return known(self.vm_dir, "kernel", files, digest)

    def _make(self, template: Template, initrd: bytes, cancelled: threading.Event) -> None:
        made = template.folder.with_suffix(".new")
        try:
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(parents=True)
            new = replace(template, folder=made)
            new.initrd.write_bytes(initrd)
            self._boot_until_frozen(new, cancelled)
            dig_holes(new.ram)
            self._prove(new, cancelled)
            for name in ("serial.log", "qemu.err"):
                (made / name).unlink(missing_ok=True)
            sync_tree(made)
            made.rename(template.folder)
        except OSError as error:
            raise HostError(
                f"the microVM template cannot be written to {made}: {error.strerror}",
                code="template-failed",
                hint="free space there, or choose another folder with --cache-dir",
            ) from error
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _boot_until_frozen(self, new: Template, cancelled: threading.Event) -> None:
        khz = _host_khz()
        failures: list[BootError] = []
        corrections = 0
        while len(failures) < _BOOTS:
            try:
                measured = self._boot(new, khz, cancelled)
            except BootError as error:
                failures.append(error)
                continue
            if measured is None:
                return
            corrections += 1
            if corrections > 3:
                break
            khz = measured
        last = failures[-1] if failures else BootError("its clock does not keep time", Autopsy())
        raise HostError(
            f"a microVM does not start under QEMU {self.qemu.version} ({new.accelerator.value}): {last.reason}\n"
            f"{last.autopsy}",
            code="template-failed",
            hint="run: mbuild doctor",
        )

    def _boot(self, new: Template, khz: int, cancelled: threading.Event) -> int | None:
        """Boot, prepare and freeze. Gives None when that is done, or the right rate for the next try."""
        cmdline = kernel_cmdline(new.accelerator, khz)
        (new.folder / "cmdline").write_text(cmdline)
        with new.ram.open("wb") as ram:
            ram.truncate(new.shape.memory)
        with start(self.boot_spec(new, cmdline), new.folder) as machine, _explained(machine):
            watch = watcher(machine, cancelled)
            channel = Channel(machine.agent, watch)
            channel.call([command(Op.HELLO)], new.accelerator.boot_timeout)
            before = _clock(channel)
            channel.call([guest.first_seed(), *guest.prepare([module_name(path) for path in self.kernel.modules])], 30)
            if new.accelerator is Accelerator.TCG:
                time.sleep(max(0.0, _CLOCK_SPAN - (time.monotonic() - before[0])))
                after = _clock(channel)
                ratio = (after[1] - before[1]) / (after[0] - before[0])
                if abs(ratio - 1) > _CLOCK_TOLERANCE:
                    return round(khz * ratio)
            freeze(machine.qmp, watch, new.folder / _BARE)
        self._settle(new, cancelled)
        return None

    def _settle(self, new: Template, cancelled: threading.Event) -> None:
        """Give the frozen machine its scratch disk, and freeze it again: it boots with disks that are larger than any
        file need be, and what a restored one is given is smaller. Its memory stays in its file."""
        bare = new.folder / _BARE
        clone(scratch_image(self.vm_dir / "scratch", new.shape.disk), new.disk)
        spec = replace(self.boot_spec(new, new.cmdline), writable=str(new.disk), raw=True)
        with start(spec, new.folder, state=bare) as machine, _explained(machine):
            watch = watcher(machine, cancelled)
            channel = Channel(machine.agent, watch)
            greet(channel, _RESTORE_TIMEOUT)
            channel.call(guestdisks.settle(new.disk.stat().st_size), 30)
            qmp = Qmp(machine.qmp, watch)
            qmp.skip(ANSWERS_TO_RESTORE, timeout=10)
            write_state(qmp, new.state)
        bare.unlink()

    def boot_spec(self, new: Template, cmdline: str) -> MachineSpec:
        """The machine that boots, and whose memory becomes the template's."""
        return MachineSpec(
            qemu=self.qemu.program,
            accelerator=new.accelerator,
            cpus=new.shape.cpus,
            memory=new.shape.memory,
            ram=str(new.ram),
            share=True,
            kernel=str(self.kernel.image),
            initrd=str(new.initrd),
            cmdline=cmdline,
            qmp_fd=-1,
            agent_fd=-1,
        )

    def _prove(self, new: Template, cancelled: threading.Event) -> None:
        """Restore a machine and run a program in it: some QEMUs restore guests that then crash."""
        failure: BootError | None = None
        spec = replace(self.boot_spec(new, new.cmdline), share=False)
        for _ in range(3):
            try:
                with (
                    run_folder(self.vm_dir / "run") as folder,
                    start(spec, folder, state=new.state) as machine,
                    _explained(machine),
                ):
                    _run_probe(Channel(machine.agent, watcher(machine, cancelled)))
                return
            except BootError as error:
                failure = error
        raise HostError(
            f"a microVM that was frozen does not run again under QEMU {self.qemu.version}: {failure}\n"
            f"{failure.autopsy if failure else ''}",
            code="template-failed",
            hint="run: mbuild doctor",
        )


def _run_probe(channel: Channel) -> None:
    greet(channel, _RESTORE_TIMEOUT)
    posted = channel.post([guest.probe()])
    channel.collect(posted, _RESTORE_TIMEOUT)
    if channel.wait_exit(posted[0][0]) != guest.PROBE_STATUS:
        raise ProtocolError("a program run in it ended wrongly")


def greet(channel: Channel, timeout: float) -> None:
    """Wait for the agent's first answer. Raises SilentGuestError, GuestGoneError, ProtocolError."""
    (answer,) = channel.call([command(Op.HELLO)], timeout)
    version = answer.number()
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"the agent speaks version {version}")


def watcher(machine: QemuMachine, cancelled: threading.Event) -> Callable[[], None]:
    """Ends a wait when the user wants to stop, or the machine is gone."""

    def watch() -> None:
        if cancelled.is_set():
            raise InterruptedBuildError
        if not machine.alive:
            raise GuestGoneError

    return watch


class _explained:  # noqa: N801 - used as a function
    """Turns what goes wrong with a booting machine into a BootError that says what it left behind."""

    def __init__(self, machine: QemuMachine) -> None:
        self._machine = machine

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        reasons = {SilentGuestError: "it does not answer", GuestGoneError: "it ended by itself"}
        if isinstance(error, (SilentGuestError, GuestGoneError, GuestFailureError, ProtocolError, QmpError)):
            reason = reasons.get(type(error), str(error))
            raise BootError(reason, self._machine.autopsy()) from error


def freeze(end: socket.socket, watch: Callable[[], None], state: Path) -> None:
    """Write the devices' state to a file and stop the machine; its memory stays in its file.

    It is frozen running, so that a restored machine runs on without being told. Raises QmpError, OSError.
    """
    qmp = Qmp(end, watch)
    qmp.command("qmp_capabilities", timeout=10)
    capabilities = [{"capability": "x-ignore-shared", "state": True}]
    qmp.command("migrate-set-capabilities", timeout=10, capabilities=capabilities)
    write_state(qmp, state)


def write_state(qmp: Qmp, state: Path) -> None:
    """The same for a machine whose QMP session is open and knows the capabilities. Raises QmpError, OSError."""
    with state.open("wb") as file:
        qmp.command("getfd", timeout=10, fd=file.fileno(), fdname="state")
        qmp.command("migrate", timeout=10, uri="fd:state")
        deadline = time.monotonic() + 60
        while (status := qmp.command("query-migrate", timeout=10).get("status")) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise QmpError(f"freezing ended with {status}")
            time.sleep(0.01)


def _clock(channel: Channel) -> tuple[float, float]:
    """The host's and the guest's monotonic clock at one moment, in seconds."""
    before = time.monotonic()
    values: Values = channel.call([command(Op.GET_CLOCK)], 10)[0]
    after = time.monotonic()
    values.number()
    return (before + after) / 2, values.number() / 1e9


def _host_khz() -> int:
    """A first guess at the rate of the time stamp counter; the boot measures how wrong it is."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return _DEFAULT_KHZ
    found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)
    return round(float(found[1]) * 1000) if found else _DEFAULT_KHZ


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
