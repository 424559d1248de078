"""What each step of a build runs on, and what of that this machine can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from machinefile.errors import MachinefileError, Problem
from machinefile.platform import Platform, native
from machinefile.steps import BuildGraph, From

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def step_platforms(graph: BuildGraph) -> dict[str, Platform]:
    """The platform of each step, by its id: that of the image which its stage began with.

    `FROM --platform=$BUILDPLATFORM` makes it another than the build's.
    """
    found: dict[str, Platform] = {}
    for step in graph.steps:
        if isinstance(step.operation, From):
            found[step.id] = step.operation.base.platform
        else:
            found[step.id] = found[step.parent] if step.parent is not None else graph.platform
    return found


def runs_here(platform: Platform) -> bool:
    """Whether a microVM of this machine executes programs for a platform."""
    return platform.architecture == native().architecture


def folder_name(platform: Platform) -> str:
    """What a platform's folder is called in an output of several, as BuildKit has it: `linux_arm_v7`."""
    return str(platform).replace("/", "_")


def for_each(given: Iterable[_Given], make: Callable[[_Given], _Made]) -> list[_Made]:
    """Do something for each platform. Raises one MachinefileError with what is wrong with the file for any of them."""
    made: list[_Made] = []
    problems: list[Problem] = []
    for one in given:
        try:
            made.append(make(one))
        except MachinefileError as error:
            problems += (problem for problem in error.problems if problem not in problems)
    if problems:
        raise MachinefileError(problems)
    return made
