"""Which steps need not run though nothing was built by their definitions: an equal file system led to a result before.

A build finds that out as it goes. Before it, it is known wherever all that a step stands on, and reads, is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cache.results import Layer, StepResult
from engine.lookup import Results
from engine.plan import NEVER_BUILT, Plan, PlannedStep, content_record, missing_below, waits_for
from machinefile.steps import From, Metadata

FORESEEN = "an equal file system led to it before"


def foreseen(plan: Plan, results: Results) -> Plan:
    """The plan, in which such steps are hits. Reads the index; runs nothing."""
    if all(planned.hit or isinstance(planned.step.operation, From) for planned in plan.steps):
        return plan
    done: dict[str, PlannedStep] = {}
    known: dict[str, tuple[Layer, ...]] = {}
    """The layers of the steps whose file systems are known."""
    for planned in plan.steps:
        one = _decide(planned, plan, done, known, results)
        done[one.step.id] = one
        if isinstance(one.step.operation, From):
            known[one.step.id] = plan.bases[one.step.id].layers
        elif one.result is not None:
            known[one.step.id] = plan.base_of(one.step.id).layers + one.result.layers
    return replace(plan, steps=tuple(done.values()))


def _decide(
    planned: PlannedStep,
    plan: Plan,
    done: Mapping[str, PlannedStep],
    known: Mapping[str, tuple[Layer, ...]],
    results: Results,
) -> PlannedStep:
    step = planned.step
    if planned.hit or isinstance(step.operation, From):
        return planned
    if isinstance(step.operation, Metadata):
        return replace(planned, hit=step.parent is None or done[step.parent].hit)
    needed = [other for other in (step.parent, *step.inputs) if other is not None]
    if not results.refused(step) and all(other in known for other in needed):
        key = content_record(planned.record, step, known.__getitem__).key()
        below = done[step.parent].result if step.parent is not None else None
        result = results.on_top_of(below or StepResult(), step, key, (done[other].result for other in step.inputs))
        if result is not None:
            return replace(planned, hit=True, reason=FORESEEN, result=result)
    if planned.reason in map(waits_for, needed):
        missing = missing_below(step, done)
        return replace(planned, reason=waits_for(missing) if missing else NEVER_BUILT)
    return planned
