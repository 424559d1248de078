"""The keys of the steps that an image is made of, for a cache inside it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cache.results import StepResult
from engine.carry.inline import StepKeys
from engine.carry.recordkeys import content_key
from engine.plan import Plan, PlannedStep


def keys_of_image(
    plan: Plan, target: str, whole: StepResult, made: Mapping[str, int] = MappingProxyType({})
) -> tuple[StepKeys, ...]:
    """The keys of the steps that made an image, FROM left out, in the order of the steps of its result.

    They follow from what was asked for and from the image alone, so that it is the same whatever this build had to
    run: a step that reads another stage gets no content key, as that stage is not looked at where the step hits. `made`
    is when steps were made, where that is to be told.
    """
    chain: list[str] = []
    below: str | None = target
    while below is not None:
        chain.append(below)
        below = plan.step(below).step.parent
    chain.reverse()
    results = {step_id: StepResult(whole.steps[:number]) for number, step_id in enumerate(chain)}

    def content(planned: PlannedStep) -> str:
        return "" if planned.step.inputs else content_key(planned, plan, results) or ""

    steps = map(plan.step, chain[1:])
    return tuple(StepKeys(planned.key, content(planned), made.get(planned.step.id, 0)) for planned in steps)
