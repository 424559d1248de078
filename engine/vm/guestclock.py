"""What the agent is told about the clock."""

from __future__ import annotations

import time

from engine.vm.execution import Execution
from engine.vm.protocol import Command, Op, command

_SET_UP = 3600
"""Seconds, more than setting up a machine may take: nothing that is made for a command is younger than its start."""


def set_to(now_ns: int) -> Command:
    """Sets the clock: nanoseconds since 1970."""
    return command(Op.SET_CLOCK, now_ns // 10**9, now_ns % 10**9)


def at_first(execution: Execution) -> list[Command]:
    """Before anything else is done in the machine, so that what is made for the command has no other time either."""
    clock = execution.clock
    if clock is None:
        return [set_to(time.time_ns() + execution.clock_shift * 10**9)]
    return [command(Op.HOLD_CLOCK, clock.start)] if clock.held else before_it(execution)


def before_it(execution: Execution) -> list[Command]:
    """Ahead of what is made ready for the command, which is to be older than all that the command makes."""
    return _moved_to(execution, -_SET_UP)


def at_the_start(execution: Execution) -> list[Command]:
    """Right before the command: the time that making everything ready took is none of its own."""
    return _moved_to(execution, 0)


def _moved_to(execution: Execution, seconds: int) -> list[Command]:
    """So many seconds after a fixed clock's start; a clock of the host's, and one that is held, is not moved."""
    clock = execution.clock
    return [] if clock is None or clock.held else [set_to((clock.start + seconds) * 10**9)]
