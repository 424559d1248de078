"""`mbuild explain`: why a step's result is not there."""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Iterator, Sequence

from engine.explain.explanation import Cause, Explanation
from engine.explain.values import explanation_value
from engine.explain.words import lines, short, shown
from engine.plan import Plan
from mbuild.arguments import Parser, add_build_options, add_format_option, registry_flags
from mbuild.commands.plan import step_json, warn
from mbuild.request import read_request
from mbuild.session import open_driver


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Print what is different from the nearest earlier build."""
    parser = Parser(
        prog="mbuild explain",
        usage="mbuild explain [OPTIONS] [STEP] [CONTEXT]",
        description="Say for each step that would run, or for STEP, what is different from the nearest earlier build.",
        epilog="A single word that is a folder is CONTEXT; with --context it is always STEP.",
    )
    parser.add_argument(
        "step",
        nargs="?",
        default="",
        metavar="STEP",
        help="an id as mbuild plan prints it, a line's number, or a stage",
    )
    add_build_options(parser)
    parser.add_argument("--context", dest="folder", default="", metavar="DIR", help="the build context")
    add_format_option(parser)
    options = parser.parse_intermixed_args(arguments)
    _sort_out(parser, options)
    request = read_request(options)
    with open_driver(options.cache_dir, warn, cancelled, registry_flags(options)) as driver:
        plan, found = driver.explain(request, options.step)
    if options.format == "json":
        print(json.dumps(explain_json(plan, found), indent=2))
    else:
        print("\n".join(_text(found)))
    return 0


def _sort_out(parser: Parser, options: argparse.Namespace) -> None:
    """Tell STEP from CONTEXT."""
    if options.folder:
        if options.context != ".":
            parser.error(f"--context {options.folder} and {options.context}: name one folder")
        options.context = options.folder
    elif options.context == "." and os.path.isdir(options.step):
        options.step, options.context = "", options.step


def explain_json(plan: Plan, found: Sequence[Explanation]) -> dict[str, object]:
    """The explanations in the form that other programs read."""
    steps = [
        step_json(plan, one.planned)
        | {"reason": short(one) or one.planned.reason, "seconds": one.nearest.seconds if one.nearest else None}
        | explanation_value(one)
        for one in found
    ]
    return {"target": plan.graph.target, "steps": steps}


def _text(found: Sequence[Explanation]) -> Iterator[str]:
    if not found:
        yield "every step that is needed has a result: nothing would run"
    for one in found:
        step = one.planned.step
        line = f", line {step.span.line}" if step.span else ""
        verdict = "hit" if one.cause is Cause.HIT else "MISS"
        text = shown(step.instruction)
        yield f"{step.id}  {verdict}  {text if len(text) <= 80 else text[:79] + '…'}{line}"
        yield from (f"    {line}" for line in lines(one))
