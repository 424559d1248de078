"""How a user names a step of a build."""

from __future__ import annotations

import difflib

from engine.plan import Plan
from machinefile.errors import UsageError
from machinefile.steps import BuildGraph, Step


def find_step(graph: BuildGraph, words: str) -> tuple[Step, bool]:
    """The step that `words` name, and whether what is meant is the end of its stage: an id as `mbuild plan` prints
    it, a line of the Machinefile, a stage's name, or a prefix of one id.

    Raises UsageError: `step-unknown`, `step-ambiguous`.
    """
    for step in graph.steps:
        if step.id == words:
            return step, False
    in_stage = [step for step in graph.steps if step.stage == words]
    if words.isdecimal():
        found = [step for step in graph.steps if step.span and step.span.line <= int(words) <= step.span.end_line]
    else:
        found = [step for step in graph.steps if step.id.startswith(words)]
    if in_stage and not (words.isdecimal() and found):
        return ([step for step in in_stage if step.makes_layer] or in_stage)[-1], True
    found = list(dict.fromkeys((*found, *in_stage)))
    if len(found) == 1:
        return found[0], False
    ids = [step.id for step in graph.steps]
    if found:
        named = ", ".join(step.id for step in found)
        raise UsageError(
            f"{words!r} may be any of {named}", code="step-ambiguous", hint="name one of them, as mbuild plan prints it"
        )
    near = difflib.get_close_matches(words, ids, n=1)
    raise UsageError(
        f"the build of {graph.target!r} has no step {words!r}",
        code="step-unknown",
        hint=f"did you mean {near[0]}?" if near else "mbuild plan lists them; --target chooses another stage",
    )


def steps_named(plan: Plan, words: str) -> tuple[str, ...]:
    """The ids of the step, or of the steps of the stage, that is meant. Raises as `find_step`."""
    _, step, is_stage = find_in_plan(plan, words)
    if not is_stage:
        return (step.id,)
    ids = (one.id for each in plan.graphs for one in each.steps if one.stage == step.stage)
    return tuple(dict.fromkeys(step_id for step_id in ids if plan.by_id[step_id].step.makes_layer)) or (step.id,)


def find_in_plan(plan: Plan, words: str) -> tuple[BuildGraph, Step, bool]:
    """As `find_step`, in the graphs of all platforms: an id is that one's; of what several have, the first's."""
    for graph in plan.graphs:
        for step in graph.steps:
            if step.id == words:
                return graph, step, False
    unknown: UsageError | None = None
    for graph in plan.graphs:
        try:
            return graph, *find_step(graph, words)
        except UsageError as error:
            if error.code != "step-unknown":
                raise
            unknown = unknown or error
    raise unknown or AssertionError("a plan has a graph")
