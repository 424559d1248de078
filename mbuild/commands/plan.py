"""`mbuild plan`: every step, its key, and whether it will hit, before anything runs."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence

from engine.events import Event, WarningRaised
from engine.plan import Plan, PlannedStep
from mbuild.arguments import Parser, add_build_options, add_format_option, registry_flags
from mbuild.request import read_request
from mbuild.session import open_driver


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Print the plan of a build."""
    parser = Parser(prog="mbuild plan", description="Show every step of a build, its key, and whether it will hit.")
    add_build_options(parser)
    add_format_option(parser)
    options = parser.parse_args(arguments)
    request = read_request(options)
    with open_driver(options.cache_dir, _warn, cancelled, registry_flags(options)) as driver:
        plan = driver.plan(request)
    print(json.dumps(plan_json(plan), indent=2) if options.format == "json" else _text(plan))
    return 0


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan in the form that other programs read; for several platforms it says for each step what it is for."""
    steps = [_step_json(planned) for planned in plan.steps]
    if len(plan.platforms) == 1:
        return {"target": plan.graph.target, "steps": steps}
    for planned, step in zip(plan.steps, steps, strict=True):
        step["platform"] = str(planned.platform)
        step["targets"] = [str(target) for target in plan.targets_of(planned.step.id)]
    return {"target": plan.graph.target, "platforms": [str(platform) for platform in plan.platforms], "steps": steps}


def _step_json(planned: PlannedStep) -> dict[str, object]:
    step = planned.step
    return {
        "id": step.id,
        "stage": step.stage,
        "line": step.span.line if step.span else 0,
        "instruction": step.instruction,
        "key": planned.key,
        "parents": [needed for needed in (step.parent, *step.inputs) if needed is not None],
        "hit": planned.hit,
        "reason": planned.reason,
    }


def _text(plan: Plan) -> str:
    rows = [
        (planned.step.id, "hit" if planned.hit else "MISS", planned.key[7:19], planned.step.instruction, planned.reason)
        for planned in plan.steps
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = []
    for row in rows:
        start = "  ".join(text.ljust(width) for text, width in zip(row[:3], widths, strict=True))
        shown = row[3] if len(row[3]) <= 80 else row[3][:79] + "…"
        lines.append(f"{start}  {shown}  ({row[4]})")
    return "\n".join(lines)


def _warn(event: Event) -> None:
    if isinstance(event, WarningRaised):
        place = f"{event.location}: " if event.location else ""
        print(f"mbuild: {place}warning: {event.message} [{event.code}]", file=sys.stderr)
