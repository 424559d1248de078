"""One plan out of the plans for several platforms: what they have in common is there once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from engine.bases import Base
from engine.plan import Plan, PlannedStep, waits_for
from machinefile.platform import Platform
from machinefile.steps import BuildGraph, Copy, FromStep, Mount, Operation, Run, Step


def join_plans(plans: Sequence[tuple[Platform, Plan]]) -> Plan:
    """Put plans of single graphs together, each with the platform that it is for.

    Steps of two plans that have the same key are one step: a stage that is pinned to the build's own platform is
    built once. A step keeps its id unless another platform has another step of that name; then the platform is
    added: `build.1@linux/arm64`.
    """
    platforms = tuple(platform for platform, _ in plans)
    if len(plans) == 1:
        return replace(plans[0][1], platforms=platforms)
    joining = _Joining([plan for _, plan in plans])
    for platform, plan in plans:
        joining.add(platform, plan)
    return Plan(tuple(joining.graphs), tuple(joining.steps), joining.bases, platforms)


class _Joining:
    def __init__(self, plans: Sequence[Plan]) -> None:
        self.graphs: list[BuildGraph] = []
        self.steps: list[PlannedStep] = []
        self.bases: dict[str, Base] = {}
        self._keys: dict[str, set[str]] = {}
        """All that a step of that name stands for."""
        self._placed: dict[tuple[str, str], str] = {}
        """The id here of a step of that name and key."""
        self._first: dict[str, str] = {}
        """The id here of the first step with that key."""
        for plan in plans:
            for planned in plan.steps:
                self._keys.setdefault(planned.step.id, set()).add(planned.key)

    def add(self, platform: Platform, plan: Plan) -> None:
        names: dict[str, str] = {}
        own: list[PlannedStep] = []
        for planned in plan.steps:
            old = planned.step.id
            known = self._placed.get((old, planned.key)) or self._first.get(planned.key)
            names[old] = known or (old if len(self._keys[old]) == 1 else f"{old}@{platform}")
            if known is None:
                own.append(planned)
                if old in plan.bases:
                    self.bases[names[old]] = plan.bases[old]
        for planned in own:  # only now, or equal steps within one plan would become one
            self._placed[planned.step.id, planned.key] = names[planned.step.id]
            self._first.setdefault(planned.key, names[planned.step.id])
            self.steps.append(
                replace(planned, step=_renamed(planned.step, names), reason=_renamed_reason(planned, names))
            )
        self.graphs.append(_renamed_graph(plan.graph, names))


def _renamed_graph(graph: BuildGraph, names: Mapping[str, str]) -> BuildGraph:
    return replace(
        graph,
        steps=tuple(_renamed(step, names) for step in graph.steps),
        result=names[graph.result],
        history=tuple(names[step_id] for step_id in graph.history),
    )


def _renamed(step: Step, names: Mapping[str, str]) -> Step:
    return replace(
        step,
        id=names[step.id],
        operation=_renamed_operation(step.operation, names),
        parent=names[step.parent] if step.parent is not None else None,
        inputs=tuple(names[needed] for needed in step.inputs),
    )


def _renamed_reason(planned: PlannedStep, names: Mapping[str, str]) -> str:
    for needed in (planned.step.parent, *planned.step.inputs):
        if needed is not None and planned.reason == waits_for(needed):
            return waits_for(names[needed])
    return planned.reason


def _renamed_operation(operation: Operation, names: Mapping[str, str]) -> Operation:
    match operation:
        case Copy(origin=FromStep(other)):
            return replace(operation, origin=FromStep(names[other]))
        case Run():
            return replace(operation, mounts=tuple(_renamed_mount(mount, names) for mount in operation.mounts))
        case _:
            return operation


def _renamed_mount(mount: Mount, names: Mapping[str, str]) -> Mount:
    return replace(mount, origin=FromStep(names[mount.origin.step])) if isinstance(mount.origin, FromStep) else mount
