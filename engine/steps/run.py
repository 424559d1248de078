"""RUN carried out: the command in a microVM of its own, and what it changed as a layer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cache.results import Layer
from cache.spans import span
from engine.layers.entry import NORMAL_TIME
from engine.layers.users import Account
from engine.layerstore import LayerStore
from engine.secrets import MaskedOutput, Secrets
from engine.sshagent import agent_sockets, with_agent
from engine.steps.mounts import MountMaker, Prepared
from engine.steps.provisions import Provisions
from engine.steps.proxies import for_guest
from engine.vm.execution import Ending, Execution, FixedClock, GuestFile, Identity, Outlook, Output, Result, Sandbox
from engine.vm.network.gate import EgressLog
from machinefile.clocks import Clock, declared_epoch
from machinefile.durations import format_duration
from machinefile.errors import StepError
from machinefile.imageconfig import Pairs
from machinefile.steps import Run
from machinefile.values import dataclass

_SIGNAL_BASE = 128
_DENIED_SHOWN = 5


def run_step(
    operation: Run,
    below: tuple[Layer, ...],
    layers: LayerStore,
    sandbox: Sandbox,
    output: Output,
    cancelled: threading.Event,
    provisions: Provisions,
    mounts: MountMaker,
    reached: Callable[[EgressLog], None] = lambda log: None,
    then: Run | None = None,
    stood_on: bool = False,
) -> Layer | None:
    """Run the command; give the layer it made, None when it changed nothing. `reached` is told, once, what it reached.
    `then` is a command that is going to run on top of it; with `stood_on` there is such a one, if not the next.

    Raises StepError: `user-unknown`, `run-failed`, `run-killed`, `run-out-of-memory`, `run-out-of-disk`,
    `run-timed-out`, `secret-leaked`, `mount-target`; MachinefileError (`source-missing`); HostError;
    InterruptedBuildError.
    """
    masker = MaskedOutput(provisions.secrets, output)
    with mounts.prepared(operation, below, cancelled) as prepared:
        execution = execution_of(operation, below, layers, provisions, prepared)
        if then is not None:
            execution = replace(execution, then=outlook_of(then, execution.disks, provisions))
        with masker, sandbox.execute(execution, masker.write, cancelled) as result:
            masker.close()
            result = replace(result, egress=_masked(result.egress, provisions.secrets))
            reached(result.egress)
            if result.caches_whole:
                with span("keep caches", "step"):
                    prepared.keep_caches(sandbox, operation, cancelled)
            if result.ending is not Ending.EXITED or result.code:
                raise _failure(operation, result, provisions.step_timeout)
            masker.check()
            if result.changes is None:
                raise AssertionError("the sandbox was asked for the changes")
            return layers.add_changes(result.changes, below if stood_on else None, scratch=result.scratch)


def execution_of(
    operation: Run, below: tuple[Layer, ...], layers: LayerStore, provisions: Provisions, prepared: Prepared
) -> Execution:
    """What a microVM is told to run: the step's command on the file system below it, with its mounts.

    Raises StepError `user-unknown`; HostError, TransferError where a layer cannot be had.
    """
    account = layers.view(below).users.account(operation.user)
    proxy, loopback_ports = for_guest(operation.proxy)
    environment = {**dict(_environment(operation, proxy, provisions)), **dict(prepared.environment)}
    return Execution(
        disks=layers.disks(below),
        argv=operation.argv,
        environment=with_home(with_agent(tuple(sorted(environment.items())), operation), account),
        identity=identity_of(account),
        working_dir=operation.working_dir,
        shape=operation.shape,
        network=operation.network,
        files=tuple(
            GuestFile(file.name, file.content.encode("utf-8", "surrogateescape"), 0o755) for file in operation.files
        ),
        hosts=operation.hosts,
        egress=provisions.egress,
        loopback_ports=loopback_ports,
        mounts=(*prepared.mounts, *agent_sockets(operation, provisions.agents)),
        privileged=operation.privileged,
        timeout=provisions.step_timeout,
        clock=_clock(operation),
    )


def outlook_of(operation: Run, disks: tuple[Path, ...], provisions: Provisions) -> Outlook:
    """What is known of a command that will run on top of those disks. See `execution_of`."""
    _, loopback_ports = for_guest(operation.proxy)
    return Outlook(disks, operation.shape, operation.network, operation.hosts, provisions.egress, loopback_ports)


def _environment(operation: Run, proxy: Pairs, provisions: Provisions) -> Pairs:
    """What the step declares, and what every step sees: the proxies given, and the one time of all layers, if they have
    one, so that what a tool writes by SOURCE_DATE_EPOCH stays true when the layer is stamped."""
    given, for_the_guest = dict(operation.proxy), dict(proxy)
    declared = {
        # An ARG that took a proxy's setting means the same proxy.
        name: for_the_guest[name] if given.get(name) == value else value
        for name, value in operation.environment
    }
    one_time = {} if provisions.keep_times else {"SOURCE_DATE_EPOCH": str(NORMAL_TIME)}
    environment = {**for_the_guest, **one_time, **declared}
    return tuple(sorted(environment.items()))


def _clock(operation: Run) -> FixedClock | None:
    """The clock that --clock asks for: at the SOURCE_DATE_EPOCH that the step sees."""
    if operation.clock is Clock.REAL:
        return None
    declared = declared_epoch(dict(operation.environment))
    return FixedClock(NORMAL_TIME if declared is None else declared, held=operation.clock is Clock.FROZEN)


def identity_of(account: Account) -> Identity:
    """Who the process is. Its own group is among its supplementary ones too, first, as in BuildKit."""
    return Identity(account.uid, account.gid, tuple(dict.fromkeys((account.gid, *account.groups))))


def with_home(environment: Pairs, account: Account) -> Pairs:
    """The environment with HOME, which Docker takes from the image's etc/passwd unless it is set."""
    if any(name == "HOME" for name, _ in environment):
        return environment
    return tuple(sorted((*environment, ("HOME", account.home))))


def with_terminal(environment: Pairs) -> Pairs:
    """The environment of a command at a terminal: TERM as Docker sets it."""
    return tuple(sorted({"TERM": "xterm", **dict(environment)}.items()))


@dataclass(frozen=True, slots=True)
class _Words:
    code: str
    text: str
    hint: str


_ENDINGS = {
    Ending.OUT_OF_MEMORY: _Words(
        "run-out-of-memory", "ran out of memory", "give its stage more: MACHINE memory=4G, or let it do less at once"
    ),
    Ending.CACHE_FULL: _Words(
        "run-cache-full",
        "filled one of its caches",
        "caches are made as large as MBUILD_CACHE_MOUNT_BYTES says, 32G without it; give this one a new id=",
    ),
    Ending.OUT_OF_DISK: _Words(
        "run-out-of-disk", "filled its disk", "give its stage more: MACHINE disk=40G, or let it write less"
    ),
}


def _failure(operation: Run, result: Result, timeout: float | None) -> StepError:
    command = _shown(operation.argv)
    if result.ending is Ending.TIMED_OUT and timeout is not None:
        return StepError(
            f"the command {command} took longer than {format_duration(int(timeout * 1e9))} and was ended",
            code="run-timed-out",
            hint="give steps more time with --step-timeout, or more memory if it ran short of it",
        )
    if result.ending is Ending.SIGNALLED:
        return StepError(
            f"the command {command} was killed by signal {result.code - _SIGNAL_BASE} (exit code {result.code})",
            code="run-killed",
            hint=_denied(result.egress),
        )
    if result.ending in _ENDINGS:
        words = _ENDINGS[result.ending]
        return StepError(f"the command {command} {words.text}", code=words.code, hint=words.hint)
    hint = {
        126: "exit code 126: the program is there and cannot be executed",
        127: "exit code 127: the shell or the program was not found in the image",
    }.get(result.code, "")
    hint = "; ".join(filter(None, (hint, _denied(result.egress))))
    return StepError(f"the command {command} failed with exit code {result.code}", code="run-failed", hint=hint)


def _masked(log: EgressLog, secrets: Secrets) -> EgressLog:
    """The log without secrets: a step may look up any name."""
    if not secrets.needles:
        return log
    return replace(log, entries=tuple(replace(entry, name=secrets.masked_name(entry.name)) for entry in log.entries))


def _denied(log: EgressLog) -> str:
    """What the step was not let reach, in words."""
    names = list(dict.fromkeys(str(entry) for entry in log.denied))
    if not names:
        return ""
    more = f" and {len(names) - _DENIED_SHOWN} more" if len(names) > _DENIED_SHOWN else ""
    return f"it was denied {', '.join(names[:_DENIED_SHOWN])}{more}: allow what it needs with --allow-net HOST:PORT"


def _shown(argv: tuple[str, ...], limit: int = 120) -> str:
    text = " ".join(" ".join(argv).split())
    return f"`{text if len(text) <= limit else text[: limit - 1] + '…'}`"
