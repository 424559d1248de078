"""A build that is over, as those see it who tell others of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from cache.carry.entry import CacheEntry
from cache.results import Layer, StepResult
from engine.carry.recordkeys import content_key
from engine.carry.spec import CacheMode
from engine.plan import Plan, PlannedStep
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """What was planned, and what came of it."""

    plan: Plan
    results: Mapping[str, StepResult]
    """Of steps, by their ids; of those that nobody needed there is none."""

    def steps(self, mode: CacheMode) -> tuple[PlannedStep, ...]:
        """The steps that go out, each key once."""
        chain = self.chain()
        found = {
            planned.key: planned
            for planned in self.plan.steps
            if planned.step.makes_layer
            and planned.step.id in self.results
            and (mode is CacheMode.MAX or planned.step.id in chain)
        }
        return tuple(found.values())

    def chain(self) -> set[str]:
        """The ids of the steps whose layers the images have."""
        found: set[str] = set()
        for target in self.plan.results:
            below: str | None = target
            while below is not None:
                found.add(below)
                below = self.plan.step(below).step.parent
        return found

    def layers(self, step_ids: Iterable[str]) -> tuple[Layer, ...]:
        """Those of the results of these steps, as far as there are any."""
        return tuple(layer for one in step_ids if one in self.results for layer in self.results[one].layers)

    def entry(self, planned: PlannedStep, carried: Mapping[str, Layer], day: int) -> CacheEntry | None:
        """The entry of a step, its layers being those of `carried`, by diff id; None when one is not among them."""
        result = self.results[planned.step.id]
        if any(layer.diff_id not in carried for layer in result.layers):
            return None
        steps = tuple(layer and carried[layer.diff_id] for layer in result.steps)
        # No content key equals a definition key: so it is found by its definition alone.
        content = content_key(planned, self.plan, self.results) or planned.key
        return CacheEntry(planned.key, content, replace(result, steps=steps, hearsay=False), day)
