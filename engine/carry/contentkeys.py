"""Content keys: those of steps that were not run, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cache.results import StepResult
from engine.carry.inline import StepKeys
from engine.plan import Plan, PlannedStep, content_identity
from engine.records import HashedTree, record_of


def content_key(
    planned: PlannedStep, plan: Plan, results: Mapping[str, StepResult], contexts: Mapping[str, HashedTree]
) -> str:
    """The content key of a step: its record with what it reads named by layers.

    `results` are those of its parent and inputs, by the steps' ids. Raises KeyError when it lacks one.
    """

    def identity(step_id: str) -> str:
        return content_identity(plan.base_of(step_id).layers + results[step_id].layers)

    return record_of(planned.step, planned.platform, identity, contexts).key()


def keys_of_images(
    plan: Plan,
    results: Sequence[StepResult],
    known: Mapping[str, StepResult],
    contexts: Mapping[str, HashedTree],
) -> tuple[tuple[StepKeys, ...], ...]:
    """The keys of the steps that made each image, FROM left out, in the order of its result's steps.

    `results` are those of the plan's targets, `known` those of other steps by their ids. A step that reads another
    whose result nobody asked for, as it was cached itself, has no content key that could be told.
    """
    return tuple(
        _keys(plan, target, result, known, contexts) for target, result in zip(plan.results, results, strict=True)
    )


def _keys(
    plan: Plan, target: str, whole: StepResult, known: Mapping[str, StepResult], contexts: Mapping[str, HashedTree]
) -> tuple[StepKeys, ...]:
    chain: list[str] = []
    below: str | None = target
    while below is not None:
        chain.append(below)
        below = plan.step(below).step.parent
    chain.reverse()
    # What a step of the image stands on is what the image has below it, whatever else its parent came to meanwhile.
    here = {step_id: StepResult(whole.steps[:number]) for number, step_id in enumerate(chain)}
    found = []
    for step_id in chain[1:]:
        planned = plan.step(step_id)
        try:
            content = content_key(planned, plan, {**known, **here}, contexts)
        except KeyError:
            content = ""
        found.append(StepKeys(planned.key, content))
    return tuple(found)
