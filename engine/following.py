"""Which command comes after which: its machine can be restored, and its disks made, while the other runs."""

from __future__ import annotations

from collections.abc import Sequence

from engine.plan import PlannedStep
from engine.vm.execution import SPARE_LAYERS
from machinefile.steps import MountType, Run

_WITH_DISKS = (MountType.BIND, MountType.CACHE)
"""Mounts whose disks a machine must have from its start, and which are known only when it is their command's turn."""


def next_runs(to_run: Sequence[PlannedStep]) -> dict[str, Run]:
    """For the ids of the commands to be run: the first command, if there is one, that stands on what it changes.

    `to_run` is in an order that the steps can run in.
    """
    by_id = {planned.step.id: planned.step for planned in to_run}
    found: dict[str, Run] = {}
    for planned in to_run:
        operation = planned.step.operation
        if not isinstance(operation, Run) or any(mount.type in _WITH_DISKS for mount in operation.mounts):
            continue
        below, layers = planned.step.parent, 0
        while below in by_id and layers < SPARE_LAYERS:
            step = by_id[below]
            layers += step.makes_layer
            if isinstance(step.operation, Run):
                found.setdefault(step.id, operation)
                break
            below = step.parent
    return found


def stood_on(to_run: Sequence[PlannedStep]) -> frozenset[str]:
    """The ids of the steps to be run that a command to be run stands on: of each of their layers it needs the disk."""
    by_id = {planned.step.id: planned.step for planned in to_run}
    found: set[str] = set()
    for step in by_id.values():
        below = step.parent if isinstance(step.operation, Run) else None
        while below in by_id and below not in found:
            found.add(below)
            below = by_id[below].parent
    return frozenset(found)
