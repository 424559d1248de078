"""Runs a step's command in a microVM of its own."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from cache.spans import span
from engine.events import Observer, ignore
from engine.vm import guest, guestclock, guestdisks, guestmounts
from engine.vm.ahead import Ahead
from engine.vm.awake import Awake, Waker
from engine.vm.channel import Channel, GuestFailureError, GuestGoneError, SilentGuestError, StepTimeoutError
from engine.vm.execution import Ending, Execution, Outlook, Output, Result, result_of
from engine.vm.forward import Forwarder
from engine.vm.hypervisor import Autopsy, Hypervisor, Template
from engine.vm.mounts import CacheMount, sockets_of
from engine.vm.protocol import PROTOCOL_VERSION, Op, ProtocolError, Values, command
from engine.vm.qemu import QemuHypervisor
from engine.vm.runfolder import sweep
from engine.vm.session import Feed, Session, attach
from machinefile.errors import HostError, InterruptedBuildError, StepError
from machinefile.steps import MachineShape, NetworkMode
from machinefile.values import dataclass

_RESTORES = 3
_ANSWER_TIMEOUT = 5.0
"""Seconds until a restored machine must answer; it takes 0.05."""
_ATTACH_TIMEOUT = 60.0
_COLLECT_TIMEOUT = 3600.0
_FULL_BYTES = 1 << 20
_FULL_FILES = 8
_SIGKILL = 9
_KILL_TIMEOUT = 10.0
"""Seconds that a guest may take to end a command whose time is over; one that thrashes is stopped then."""


_BAD_TARGETS = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EROFS, errno.ENAMETOOLONG)


@dataclass(slots=True)
class _Run:
    """One machine with the step in it."""

    awake: Awake
    layers: int
    """Of the step's root."""
    stubs: tuple[str, ...] = ()


class MicroVmSandbox:
    """Runs commands in microVMs of a hypervisor; any number at once, from any threads.

    `vm_dir` is the hypervisors' part of the store; private folders of machines are made in `runtime_dir`.
    """

    def __init__(self, hypervisor: Hypervisor, vm_dir: Path, runtime_dir: Path | None = None) -> None:
        self._hypervisor = hypervisor
        self._vm_dir = vm_dir
        self._runtime_dir = runtime_dir or vm_dir / "run"
        self._waker = Waker(hypervisor, vm_dir, self._runtime_dir)
        self._ahead = Ahead(self._waker)
        self._starts = 0
        self._lock = threading.Lock()
        self._swept = False

    @property
    def starts(self) -> int:
        """How many microVMs were restored so far."""
        return self._starts

    @contextmanager
    def execute(self, execution: Execution, output: Output, cancelled: threading.Event) -> Iterator[Result]:
        """Run a command to its end; see Sandbox.

        Raises HostError: `network-host-refused`, `vm-silent` (it never answered), `vm-died`, `vm-panic`, `vm-setup`,
        `vm-protocol`, `vm-disk-exceeded`, and those of templates and disks; InterruptedBuildError.
        """
        if execution.network is NetworkMode.HOST and not execution.egress.host_network:
            raise HostError(
                "the host's network is not open to a RUN unless that is allowed",
                code="network-host-refused",
                hint="allow it with --allow network.host, or leave --network=host out",
            )
        if cancelled.is_set():
            raise InterruptedBuildError
        self._sweep_once()
        with span("template", "vm"):
            template = self._hypervisor.template(execution.shape, cancelled)
        with ExitStack() as stack:
            yield self._run(execution, template, output, cancelled, stack)

    def merge(self, newer: Path, into: Path, shape: MachineShape, cancelled: threading.Event) -> None:
        """Bring the files of one cache disk that another lacks, or has older, into that other; see Sandbox."""
        mounts = (CacheMount("/newer", newer), CacheMount("/into", into))
        execution = Execution((), ("merge",), (), shape=shape, network=NetworkMode.NONE, capture=False, mounts=mounts)
        self._sweep_once()
        template = self._hypervisor.template(shape, cancelled)
        with self._come_alive(execution, template, cancelled) as run, _breakdowns(run):
            run.awake.channel.call([guestmounts.merge_row(), *guestmounts.take_apart(execution)], _COLLECT_TIMEOUT)

    def expect(self, outlook: Outlook, cancelled: threading.Event) -> None:
        """Begin to restore a machine for a command to come; see Sandbox."""
        self._ahead.expect(outlook, cancelled, first=True)

    def forget(self) -> None:
        """End the machines that wait for commands; see Sandbox."""
        self._ahead.forget()

    def _sweep_once(self) -> None:
        with self._lock:
            if not self._swept:
                sweep(self._runtime_dir)
                self._swept = True

    def _run(
        self,
        execution: Execution,
        template: Template,
        output: Output,
        cancelled: threading.Event,
        stack: ExitStack,
    ) -> Result:
        with self._come_alive(execution, template, cancelled) as run:
            if execution.then is not None:
                self._ahead.expect(execution.then, cancelled)
            result = _carry_out(run, execution, output)
            # Its folder outlives the machine: what the step changed is read from there.
            stack.enter_context(run.awake.home.pop_all())
        if run.awake.gate is not None:
            result = replace(result, egress=run.awake.gate.log)
        if result.ending is Ending.EXITED and result.code == 0 and execution.capture:
            disks = run.awake.disks
            opened = [stack.enter_context(disk.open("rb")) for disk in (disks.changes, disks.scratch)]
            return replace(result, changes=opened[0], scratch=opened[1])
        return result

    def _awake(self, execution: Execution, template: Template, cancelled: threading.Event) -> Awake:
        """A machine that waits for such a command, or a new one."""
        with span("take ahead", "vm") as taking:
            awake = self._ahead.take(execution, cancelled)
            taking.note(found=awake is not None)
        return awake or self._waker.wake(execution, template, cancelled)

    @contextmanager
    def _come_alive(self, execution: Execution, template: Template, cancelled: threading.Event) -> Iterator[_Run]:
        """Restore a machine and set it up, again if it hangs: nothing of the user has run by then."""
        for port in execution.ports:
            port.check_free()
        stalls: list[tuple[str, Autopsy]] = []
        while len(stalls) < _RESTORES:
            awake = self._awake(execution, template, cancelled)
            with awake.home, awake.life as life:
                with self._lock:
                    self._starts += 1
                if sockets := sockets_of(execution.mounts):
                    awake.channel.accompany(life.enter_context(Forwarder(sockets, awake.channel)))
                try:
                    run = _set_up(awake, execution)
                except (SilentGuestError, GuestGoneError) as error:
                    reason = "it does not answer" if isinstance(error, SilentGuestError) else "it ended by itself"
                    stalls.append((reason, awake.machine.autopsy()))
                    continue
                except GuestFailureError as error:
                    _check_target(error)
                    raise HostError(
                        f"the microVM cannot be set up: {error}\n{awake.machine.autopsy()}",
                        code="vm-setup",
                        hint="a layer may be damaged: build again with --no-cache",
                    ) from error
                except ProtocolError as error:
                    raise _misbehaved(str(error), awake.machine.autopsy()) from error
                yield run
                return
        reason, autopsy = stalls[-1]
        raise HostError(
            f"a microVM did not come to life in {_RESTORES} tries: {reason}\n{autopsy}",
            code="vm-silent",
            hint="run: mbuild doctor",
        )


def _set_up(awake: Awake, execution: Execution) -> _Run:
    """Everything up to the command's start, sent at once."""
    channel, layers = awake.channel, len(execution.disks)
    on_top = awake.disks.add(execution.disks[len(awake.outlook.disks) :])
    furnishing, stub_rows = guest.furnish(execution)
    mounting, mount_stubs = guestmounts.mount_rows(execution)
    stub_rows += [len(furnishing) + row for row in mount_stubs]
    furnishing = [*furnishing, *mounting, *guestclock.at_the_start(execution), guest.enter(execution)]
    # It may have waited for long; and its clock was set when nothing was known of the step's.
    differing = [command(Op.RESEED, guest.seed()), *guestclock.at_first(execution)]
    laying = [*guestdisks.add_layers(on_top, layers - len(on_top)), *guest.lay_root(layers)]
    # What stays in the layer, these folders and that to work in, is as old as the command's first moment.
    lasting = [*guestclock.at_the_start(execution), *guest.add_folders(), *guestclock.before_it(execution)]
    rest = channel.post([*differing, *laying, *lasting, *furnishing])
    with span("restore", "vm"):
        version = channel.collect(awake.hello, _ANSWER_TIMEOUT)[0].number()
    if version != PROTOCOL_VERSION:
        raise ProtocolError(f"the agent speaks version {version}")
    with span("attach", "vm"):
        answers = channel.collect([*awake.told, *rest], _ATTACH_TIMEOUT)[-len(furnishing) :]
    made: list[str] = []
    for row in stub_rows:
        made += [answers[row].text() for _ in range(answers[row].number())]
    return _Run(awake, layers, tuple(made))


def _carry_out(run: _Run, execution: Execution, output: Output) -> Result:
    """Run the command to its end; what goes wrong with the machine becomes an error that says what it left."""
    try:
        with _breakdowns(run):
            return _run_command(run, execution, output)
    except OutOfMemoryError:
        return Result(Ending.OUT_OF_MEMORY, 128 + _SIGKILL)


class OutOfMemoryError(HostError):
    """The guest's kernel gave up for want of memory."""


@contextmanager
def _breakdowns(run: _Run) -> Iterator[None]:
    try:
        yield
    except GuestGoneError as error:
        raise _broken_down(run.awake.machine.autopsy()) from error
    except (SilentGuestError, GuestFailureError, ProtocolError) as error:
        reason = "it does not answer" if isinstance(error, SilentGuestError) else str(error)
        raise _misbehaved(reason, run.awake.machine.autopsy()) from error


def _run_command(run: _Run, execution: Execution, output: Output) -> Result:
    channel = run.awake.channel
    channel.on_output = output
    session = execution.session
    begin = [*guestclock.at_the_start(execution), guest.spawn(execution)]
    with span("run", "vm") as running:
        posted = channel.post([*([attach(session)] if session else []), *begin])
        channel.collect(posted, _ATTACH_TIMEOUT)
        process = posted[-1][0]
        try:
            with _talking(session, channel, process):
                status = channel.wait_exit(process, execution.timeout)
        except StepTimeoutError:
            return _time_out(channel, process, execution)
        ended = result_of(status)
        running.note(ending=ended.ending.value, code=ended.code)
    ending, code = ended.ending, ended.code
    if ending is not Ending.EXITED or code:
        kernel, disk, *caches = channel.call([*guest.look(), *guestmounts.look_at_caches(execution)], _ATTACH_TIMEOUT)
        if _killed_for_memory(kernel):
            ending = Ending.OUT_OF_MEMORY
        elif _full(disk):
            ending = Ending.OUT_OF_DISK
        elif any(_full(cache) for cache in caches):
            ending = Ending.CACHE_FULL
    with span("diff", "vm"):
        _take_apart(channel, execution)
        if ending is Ending.EXITED and code == 0 and execution.capture:
            channel.call(guest.collect(run.layers, run.stubs, guestdisks.CHANGES_DEVICE), _COLLECT_TIMEOUT)
    return Result(ending, code, caches_whole=True)


def _take_apart(channel: Channel, execution: Execution) -> None:
    channel.call(guestmounts.take_apart(execution), _COLLECT_TIMEOUT)


def _time_out(channel: Channel, tag: int, execution: Execution) -> Result:
    """Kill the command and keep its caches, if the guest still does as it is told."""
    whole = False
    try:
        channel.post([command(Op.SIGNAL, tag, _SIGKILL)])
        channel.wait_exit(tag, _KILL_TIMEOUT)
        _take_apart(channel, execution)
        whole = True
    except (StepTimeoutError, GuestGoneError, SilentGuestError, GuestFailureError):
        pass  # it is stopped as it is, and what it wrote to its caches is dropped
    return Result(Ending.TIMED_OUT, 128 + _SIGKILL, caches_whole=whole)


def _check_target(error: GuestFailureError) -> None:
    """Raises StepError when what failed is the image's or the user's doing: a place where nothing can be mounted."""
    if error.op in (Op.ENSURE, Op.BIND_FROM) and error.errno in _BAD_TARGETS:
        raise StepError(
            f"nothing can be mounted or made at {error.detail!r}: {os.strerror(error.errno)}",
            code="mount-target",
            hint="folders are mounted over folders, files over files; below a read-only mount nothing can be made",
        ) from error


@contextmanager
def _talking(session: Session | None, channel: Channel, process: int) -> Iterator[None]:
    """Connects a session with its command, until that is over."""
    if session is None:
        yield
        return
    feed = Feed(session, channel, process)
    channel.accompany(feed)
    try:
        with session.meanwhile(session):
            yield
    finally:
        channel.leave(feed)


def _misbehaved(reason: str, autopsy: Autopsy) -> HostError:
    return HostError(
        f"the microVM broke down around the step's command: {reason}\n{autopsy}",
        code="vm-protocol",
        hint="run the step again",
    )


def _broken_down(autopsy: Autopsy) -> HostError:
    if autopsy.out_of_memory:
        return OutOfMemoryError("the microVM ran out of memory", code="vm-memory", hint="give it more memory")
    code, what = ("vm-panic", "its kernel panicked") if autopsy.panicked else ("vm-died", "it ended by itself")
    return HostError(
        f"the microVM broke down while the step ran: {what}\n{autopsy}",
        code=code,
        hint="run the step again; if it breaks down each time, give it more memory with MACHINE memory=",
    )


def _killed_for_memory(vmstat: Values) -> bool:
    for line in vmstat.text().splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return count != "0"
    return False


def _full(statfs: Values) -> bool:
    block, _, free, _, free_files = (statfs.number() for _ in range(5))
    return block * free < _FULL_BYTES or free_files < _FULL_FILES


class QemuSandbox(MicroVmSandbox):
    """Runs commands in microVMs of QEMU. `vm_dir` is made if it is missing."""

    def __init__(self, vm_dir: Path, runtime_dir: Path | None = None, observer: Observer = ignore) -> None:
        vm_dir.mkdir(parents=True, exist_ok=True)
        vm_dir = vm_dir.absolute()
        self.hypervisor = QemuHypervisor(vm_dir, observer)
        super().__init__(self.hypervisor, vm_dir, runtime_dir)
