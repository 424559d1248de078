"""Which command comes after which: its machine can be restored, and its disks made, while the other runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.plan import PlannedStep
from engine.vm.execution import SPARE_LAYERS
from machinefile.steps import MountType, Run, Step
from machinefile.values import dataclass

_WITH_DISKS = (MountType.BIND, MountType.CACHE)
"""Mounts whose disks a machine must have from its start, and which are known only when it is their command's turn."""


@dataclass(frozen=True, slots=True)
class Following:
    """Which commands are going to run on top of what."""

    after_run: Mapping[str, Run]
    """By the ids of commands to be run: the first that stands on what such a command changes."""
    after_copies: Mapping[str, Step]
    """By the ids of steps that are there: the first that stands on layers which are only copied on top of them."""
    stood_on: frozenset[str]
    """The ids of the steps to be run that a command to be run stands on: of each of their layers it needs the disk."""


def following(to_run: Sequence[PlannedStep]) -> Following:
    """`to_run` is in an order that the steps can run in."""
    by_id = {planned.step.id: planned.step for planned in to_run}
    after_run: dict[str, Run] = {}
    after_copies: dict[str, Step] = {}
    for planned in to_run:
        operation = planned.step.operation
        if not isinstance(operation, Run) or any(mount.type in _WITH_DISKS for mount in operation.mounts):
            continue
        below, layers = planned.step.parent, 0
        while below is not None and layers < SPARE_LAYERS:
            step = by_id.get(below)
            if step is None:
                if layers:
                    after_copies.setdefault(below, planned.step)
                break
            layers += step.makes_layer
            if isinstance(step.operation, Run):
                after_run.setdefault(step.id, operation)
                break
            below = step.parent
    return Following(after_run, after_copies, _stood_on(by_id))


def _stood_on(to_run: Mapping[str, Step]) -> frozenset[str]:
    found: set[str] = set()
    for step in to_run.values():
        below = step.parent if isinstance(step.operation, Run) else None
        while below is not None and below in to_run and below not in found:
            found.add(below)
            below = to_run[below].parent
    return frozenset(found)
