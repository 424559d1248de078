"""`mbuild plan`: every step, its key, and whether it will hit, before anything runs."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence

from engine.events import Event, WarningRaised
from engine.explain.words import shown
from engine.plan import Plan, PlannedStep
from mbuild.arguments import Parser, add_build_options, add_format_option, registry_flags
from mbuild.profile import add_profile_option, profiled
from mbuild.progress.units import duration
from mbuild.request import read_request
from mbuild.session import open_driver


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Print the plan of a build."""
    parser = Parser(
        prog="mbuild plan",
        description="Show every step of a build, its key, whether it will hit or why not, and how long it took.",
    )
    add_build_options(parser)
    add_format_option(parser)
    add_profile_option(parser)
    options = parser.parse_args(arguments)
    with profiled(options.profile):
        request = read_request(options)
        with open_driver(options.cache_dir, warn, cancelled, registry_flags(options)) as driver:
            plan = driver.plan(request)
    print(json.dumps(plan_json(plan), indent=2) if options.format == "json" else _text(plan))
    return 0


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan in the form that other programs read; for several platforms it says for each step what it is for."""
    steps = [step_json(plan, planned) for planned in plan.steps]
    if len(plan.platforms) == 1:
        return {"target": plan.graph.target, "steps": steps}
    return {"target": plan.graph.target, "platforms": [str(platform) for platform in plan.platforms], "steps": steps}


def step_json(plan: Plan, planned: PlannedStep) -> dict[str, object]:
    """One step of a plan."""
    step = planned.step
    found: dict[str, object] = {
        "id": step.id,
        "stage": step.stage,
        "line": step.span.line if step.span else 0,
        "instruction": step.instruction,
        "key": planned.key,
        "parents": [needed for needed in (step.parent, *step.inputs) if needed is not None],
        "hit": planned.hit,
        "reason": planned.reason,
        "seconds": planned.seconds,
    }
    if len(plan.platforms) > 1:
        found["platform"] = str(planned.platform)
        found["targets"] = [str(target) for target in plan.targets_of(step.id)]
    return found


def _text(plan: Plan) -> str:
    rows = [
        (
            planned.step.id,
            "hit" if planned.hit else "MISS",
            planned.key[7:19],
            "" if planned.seconds is None else duration(planned.seconds),
            shown(planned.step.instruction),
            planned.reason,
        )
        for planned in plan.steps
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = []
    for row in rows:
        start = "  ".join(text.ljust(width) for text, width in zip(row[:4], widths, strict=True))
        instruction = row[4] if len(row[4]) <= 80 else row[4][:79] + "…"
        lines.append(f"{start}  {instruction}  ({row[5]})")
    return "\n".join((*lines, _sum(plan)))


def _sum(plan: Plan) -> str:
    """What there is to do, and how long it took when it was last done."""
    missing, counted = plan.to_run(), len(plan.counted())
    if not missing:
        return f"nothing to run: {counted} of {counted} steps have results or are not needed"
    known = [planned.seconds for planned in missing if planned.seconds is not None]
    took = f"; last time they took {duration(sum(known))}" if known else ""
    new = len(missing) - len(known)
    unknown = f" ({new} of them never ran)" if known and new else ""
    return f"{len(missing)} of {counted} steps to run{took}{unknown}"


def warn(event: Event) -> None:
    """Print what is a warning."""
    if isinstance(event, WarningRaised):
        place = f"{event.location}: " if event.location else ""
        print(f"mbuild: {place}warning: {event.message} [{event.code}]", file=sys.stderr)
