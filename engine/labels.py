"""How steps are shown: `[build 2/4] RUN make`, and with several platforms `[linux/arm64 build 2/4] RUN make`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.plan import Plan, PlannedStep


def labels_of(plan: Plan, shown: Sequence[PlannedStep]) -> dict[str, str]:
    """The labels of steps, by their ids, counted within the stage as it is for one platform."""
    places: dict[str, str] = {}
    ids = {planned.step.id for planned in shown}
    for graph in plan.graphs:
        steps = [step for step in graph.steps if step.id in ids]
        sizes = Counter(step.stage for step in steps)
        seen: Counter[str] = Counter()
        for step in steps:
            seen[step.stage] += 1
            places.setdefault(step.id, f"{step.stage} {seen[step.stage]}/{sizes[step.stage]}")
    return {
        planned.step.id: f"[{_platform(plan, planned)}{places[planned.step.id]}] {planned.step.instruction}"
        for planned in shown
    }


def _platform(plan: Plan, planned: PlannedStep) -> str:
    """Of several the step's own; where it is made anew for another one, as in a stage that cross-compiles, that too:
    BuildKit's `linux/amd64->linux/arm64`."""
    if len(plan.graphs) == 1:
        return ""
    targets = plan.targets_of(planned.step.id)
    if len(targets) == 1 and targets[0] != planned.platform:
        return f"{planned.platform}->{targets[0]} "
    return f"{planned.platform} "
