"""The content keys of steps whose results are known, be they made now or found, from their records alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cache.keys import Value
from cache.results import Layer, StepResult
from engine.plan import Plan, PlannedStep, content_identity
from machinefile.steps import From


def content_key(planned: PlannedStep, plan: Plan, results: Mapping[str, StepResult]) -> str | None:
    """The content key of a step; `results` by the ids of steps, of as many as there are.

    It is made of the record that the definition key was made of, not of the context as it is now: a file that was
    changed since must not get the layer of the old one. None when what the step reads has no result here, as below
    a hit that was all that was needed.
    """
    inputs = [_layers(needed, plan, results) for needed in planned.step.inputs]
    if any(layers is None for layers in inputs):
        return None
    parent: Value = None
    if planned.step.parent is not None:
        below = _below(planned, plan, results)
        if below is None:
            return None
        parent = content_identity(below)
    identities: dict[str, Value] = {
        "parent": parent,
        "inputs": tuple(content_identity(layers) for layers in inputs if layers is not None),
    }
    fields = tuple((name, identities.get(name, value)) for name, value in planned.record.fields)
    return replace(planned.record, fields=fields).key()


def _below(planned: PlannedStep, plan: Plan, results: Mapping[str, StepResult]) -> tuple[Layer, ...] | None:
    """The layers that a step stands on, which its own result lists too."""
    own = results.get(planned.step.id)
    if own is not None and own.steps:
        return plan.base_of(planned.step.id).layers + replace(own, steps=own.steps[:-1]).layers
    return _layers(planned.step.parent, plan, results) if planned.step.parent is not None else ()


def _layers(step_id: str, plan: Plan, results: Mapping[str, StepResult]) -> tuple[Layer, ...] | None:
    base = plan.base_of(step_id).layers
    if isinstance(plan.step(step_id).step.operation, From):
        return base
    found = results.get(step_id)
    return None if found is None else base + found.layers
