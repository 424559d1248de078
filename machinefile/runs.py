"""RUN."""

from __future__ import annotations

from machinefile.building import Building
from machinefile.clocks import EARLIEST, EPOCH_VARIABLE, LATEST, Clock, declared_epoch
from machinefile.durations import parse_age
from machinefile.flags import flag_value
from machinefile.goformat import quoted_list
from machinefile.instructions import Form, Instruction
from machinefile.mounts import resolve_mounts
from machinefile.steps import FromStep, InlineFile, Mount, NetworkMode, Run
from machinefile.suggest import did_you_mean

_SCRIPTS = "/dev/pipes"
"""Where a heredoc with a `#!` line is shown to its RUN, as in BuildKit."""


def resolve_run(building: Building, instruction: Instruction) -> None:
    """RUN: the command is not rewritten; it gets the environment instead."""
    privileged = _privileged(building, instruction)
    mounts = resolve_mounts(building, instruction)
    argv, files = _command(building, instruction)
    run = Run(
        argv=argv,
        environment=tuple(sorted(building.environment.items())),
        user=building.config.user,
        working_dir=building.directory,
        network=_network(building, instruction),
        mounts=mounts,
        shape=building.shape,
        files=files,
        hosts=building.options.hosts,
        privileged=privileged,
        ttl=_ttl(building, instruction),
        clock=_clock(building, instruction),
        proxy=building.arguments.proxy,
    )
    created_by = f"RUN {' '.join([*_declared(building), *argv])} # buildkit"
    building.add(instruction, run, _display(instruction), created_by, _inputs(mounts))


def _command(building: Building, instruction: Instruction) -> tuple[tuple[str, ...], tuple[InlineFile, ...]]:
    words = tuple(word.text for word in instruction.words)
    if instruction.form is Form.EXEC:
        return words, ()
    heredocs = instruction.heredocs
    if not heredocs:
        return (*building.shell, *words), ()
    if len(heredocs) == 1 and heredocs[0].marker == words[0].strip():
        script = heredocs[0].text
        if not script.startswith("#!"):
            return (*building.shell, script), ()
        path = f"{_SCRIPTS}/{heredocs[0].name}"
        return (*building.shell, path), (InlineFile(path, script),)
    parts = [words[0], *(f"{heredoc.content}{heredoc.name}" for heredoc in heredocs)]
    return (*building.shell, "\n".join(parts)), ()


def _declared(building: Building) -> list[str]:
    """The ARGs in scope as Docker puts them into the history: `|2 A=1 B=2`."""
    values = {name: building.environment.get(name, value or "") for name, value in building.declared}
    return [f"|{len(values)}", *(f"{name}={value}" for name, value in values.items())] if values else []


def _network(building: Building, instruction: Instruction) -> NetworkMode:
    flag = instruction.flag("network")
    if flag is None:
        return building.options.network
    value = flag_value(flag)
    try:
        return NetworkMode(value)
    except ValueError:
        known = [mode.value for mode in NetworkMode]
        hint = did_you_mean(value, known, f"it is {', '.join(known)}")
        raise building.fail(instruction, f"--network can't be {value or 'empty'}", "bad-network", hint, flag) from None


def _ttl(building: Building, instruction: Instruction) -> int | None:
    """After which age the step runs again."""
    flag = instruction.flag("ttl")
    if flag is None:
        return None
    value = building.flag(instruction, "ttl")
    try:
        return parse_age(value)
    except ValueError:
        message = f"--ttl is an age such as 7d or 12h, not {value or 'empty'}"
        hint = "units are w, d, h, m and s"
        raise building.fail(instruction, message, "bad-ttl", hint, flag) from None


def _clock(building: Building, instruction: Instruction) -> Clock:
    """Which time the step's machine shows."""
    clock = building.options.clock
    flag = instruction.flag("clock")
    if flag is not None:
        value = building.flag(instruction, "clock")
        known = [one.value for one in Clock]
        if value not in known:
            hint = did_you_mean(value, known, f"it is {', '.join(known)}")
            raise building.fail(instruction, f"--clock can't be {value or 'empty'}", "bad-clock", hint, flag)
        clock = Clock(value)
    if clock is not Clock.REAL:
        try:
            declared_epoch(building.environment)
        except ValueError as error:
            message = f"{EPOCH_VARIABLE} is {error}, and the clock of a step cannot be set to that"
            hint = f"seconds since 1970, from {EARLIEST} to {LATEST}; or leave --clock={clock.value} out"
            raise building.fail(instruction, message, "bad-clock", hint, flag) from None
    return clock


def _privileged(building: Building, instruction: Instruction) -> bool:
    """Whether the step gets all capabilities: of its microVM's kernel, so that it harms nobody else."""
    security = instruction.flag("security")
    insecure = security is not None and flag_value(security) == "insecure"
    if security is not None and insecure and "security.insecure" not in building.options.entitlements:
        message = "--security=insecure is not allowed: a build that needs it is to be told so"
        hint = "allow it with --allow security.insecure, or leave the flag out"
        raise building.fail(instruction, message, "security-insecure", hint, security)
    if security is not None and not insecure and flag_value(security) != "sandbox":
        hint = did_you_mean(flag_value(security), ("sandbox", "insecure"), "it is sandbox or insecure")
        message = f"--security can't be {flag_value(security) or 'empty'}"
        raise building.fail(instruction, message, "bad-security", hint, security)
    device = instruction.flag("device")
    if device is not None:
        message = "--device is not possible: a step runs in a microVM, which the host's devices can't enter"
        raise building.fail(instruction, message, "device-refused", "leave the flag out", device)
    return insecure


def _inputs(mounts: tuple[Mount, ...]) -> tuple[str, ...]:
    found = [mount.origin.step for mount in mounts if isinstance(mount.origin, FromStep)]
    return tuple(dict.fromkeys(found))


def _display(instruction: Instruction) -> str:
    flags = [f"--{flag.name}={flag.value}" for flag in instruction.flags]
    words = [word.text for word in instruction.words]
    text = quoted_list(words) if instruction.form is Form.EXEC else " ".join(words)
    if instruction.heredocs:
        lines = instruction.heredocs[0].text.strip().split("\n")
        text += f" ({lines[0].strip()}{'...' if len(lines) > 1 else ''})"
    return " ".join(["RUN", *flags, text])
