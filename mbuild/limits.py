"""--cpus, --memory, --disk and --step-timeout."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from machinefile.durations import parse_duration
from machinefile.errors import UsageError
from machinefile.machines import LEAST_DISK, LEAST_MEMORY, MOST_CPUS, whole_mebibytes
from machinefile.sizes import parse_size
from machinefile.steps import MachineShape


def read_shape(options: argparse.Namespace) -> MachineShape | None:
    """The machine of stages that say nothing of their own; None where no option is given.

    Raises UsageError (`usage`).
    """
    usual = MachineShape()
    if not (options.cpus or options.memory or options.disk):
        return None
    return MachineShape(
        _cpus(options.cpus) if options.cpus else usual.cpus,
        _size("--memory", options.memory, LEAST_MEMORY) if options.memory else usual.memory,
        _size("--disk", options.disk, LEAST_DISK) if options.disk else usual.disk,
    )


def read_timeout(text: str) -> float | None:
    """Seconds; None for an empty text. Raises UsageError (`usage`)."""
    if not text:
        return None
    duration = _parsed(parse_duration, text)
    if duration is None or duration <= 0:
        raise UsageError(
            f"--step-timeout {text}: this is no length of time",
            code="usage",
            hint="write it with its unit, for example --step-timeout 90s or 10m",
        )
    return duration / 1e9


def _cpus(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MOST_CPUS:
        raise UsageError(f"--cpus {text}: this is no whole number from 1 to {MOST_CPUS}", code="usage")
    return int(text)


def _size(option: str, text: str, least: int) -> int:
    size = _parsed(parse_size, text)
    if size is None or size < least:
        raise UsageError(
            f"{option} {text}: this is no size of at least {least >> 20}M",
            code="usage",
            hint=f"for example {option} 2g",
        )
    return whole_mebibytes(size)


def _parsed(parse: Callable[[str], int], text: str) -> int | None:
    try:
        return parse(text)
    except ValueError:
        return None
