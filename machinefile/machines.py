"""MACHINE and SNAPSHOT: the words that only a Machinefile has."""

from __future__ import annotations

import re
from dataclasses import replace

from machinefile.building import Building
from machinefile.durations import parse_duration
from machinefile.instructions import Flag, Instruction, Word
from machinefile.sizes import parse_size
from machinefile.steps import MachineShape, Metadata, Snapshot
from machinefile.suggest import did_you_mean

MOST_CPUS = 255
LEAST_MEMORY = 64 << 20
LEAST_DISK = 64 << 20


def resolve_machine(building: Building, instruction: Instruction) -> None:
    """MACHINE: what every step of its stage gets, wherever in the stage it stands."""
    _once(building, instruction)
    shape, given = building.shape, []
    for word in instruction.words:
        text = building.word(instruction, word)
        name, _, value = text.partition("=")
        if name in given:
            raise building.fail(instruction, f"{name} is given twice", "machine-twice", "keep one of them", word)
        given.append(name)
        shape = _with(building, instruction, word, shape, name, value)
    building.shape = shape
    _add(building, instruction, [building.word(instruction, word) for word in instruction.words])


def _with(
    building: Building, instruction: Instruction, word: Word, shape: MachineShape, name: str, value: str
) -> MachineShape:
    if name == "cpus":
        if not re.fullmatch(r"[0-9]{1,4}", value) or not 1 <= int(value) <= MOST_CPUS:
            message = f"cpus is a whole number from 1 to {MOST_CPUS}, not {value or 'empty'}"
            raise building.fail(instruction, message, "bad-machine", "for example cpus=2", word)
        return replace(shape, cpus=int(value))
    if name not in ("memory", "disk"):
        message = f"MACHINE does not know {name}"
        hint = did_you_mean(name, ("cpus", "memory", "disk"), "it takes cpus=, memory= and disk=")
        raise building.fail(instruction, message, "bad-machine", hint, word)
    least = LEAST_MEMORY if name == "memory" else LEAST_DISK
    try:
        size = parse_size(value)
    except ValueError:
        message = f"{name} is a size such as 512M or 2G, not {value or 'empty'}"
        raise building.fail(instruction, message, "bad-machine", f"for example {name}=2G", word) from None
    if size < least:
        message = f"{name} is at least {least >> 20}M, not {value}"
        raise building.fail(instruction, message, "bad-machine", f"for example {name}=2G", word)
    size = whole_mebibytes(size)
    return replace(shape, memory=size) if name == "memory" else replace(shape, disk=size)


def whole_mebibytes(size: int) -> int:
    """A size in bytes, rounded down to MiB: machines are made of those."""
    return size >> 20 << 20


def resolve_snapshot(building: Building, instruction: Instruction) -> None:
    """SNAPSHOT: when the machine is ready to be frozen."""
    _once(building, instruction)
    ready, timeout = instruction.flag("ready"), instruction.flag("timeout")
    snapshot = Snapshot()
    if ready is not None:
        snapshot = replace(snapshot, ready=_ready(building, instruction, ready))
    if timeout is not None:
        snapshot = replace(snapshot, timeout=_timeout(building, instruction, timeout))
    building.snapshot = snapshot
    _add(
        building, instruction, [f"--{flag.name}={building.flag(instruction, flag.name)}" for flag in instruction.flags]
    )


def _ready(building: Building, instruction: Instruction, flag: Flag) -> str:
    value = building.flag(instruction, "ready")
    kind, _, rest = value.partition(":")
    if kind == "tcp" and re.fullmatch(r"[0-9]{1,5}", rest) and 1 <= int(rest) <= 65535:
        return value
    if (kind == "exec" and rest.strip()) or value == "healthcheck":
        return value
    hint = "it is tcp:PORT, exec:COMMAND or healthcheck"
    raise building.fail(instruction, f"--ready={value} says nothing to wait for", "bad-snapshot", hint, flag)


def _timeout(building: Building, instruction: Instruction, flag: Flag) -> float:
    value = building.flag(instruction, "timeout")
    try:
        duration = parse_duration(value)
    except ValueError:
        duration = 0
    if duration <= 0:
        message = f"--timeout is a time such as 30s, not {value or 'empty'}"
        raise building.fail(instruction, message, "bad-snapshot", "for example --timeout=30s", flag)
    return duration / 1e9


def _once(building: Building, instruction: Instruction) -> None:
    if instruction.name in building.seen:
        message = f"a stage has one {instruction.name}"
        raise building.fail(instruction, message, f"{instruction.name.lower()}-twice", "put both into one line")
    building.seen.add(instruction.name)


def _add(building: Building, instruction: Instruction, shown: list[str]) -> None:
    text = " ".join([instruction.name, *shown])
    building.add(instruction, Metadata(instruction.name, tuple(shown)), text, "")
