"""Looking inside a build: what to run where, in a microVM with a step's file system."""

from __future__ import annotations

import threading
from dataclasses import replace

from cache.results import Layer
from engine.bases import Base
from engine.layerstore import LayerStore
from engine.naming import find_in_plan
from engine.plan import Plan
from engine.steps.mounts import MountMaker
from engine.steps.provisions import Provisions
from engine.steps.run import execution_of, with_terminal
from engine.vm.execution import Output, Sandbox
from engine.vm.session import Session
from machinefile.steps import BuildGraph, Metadata, Run, Step
from machinefile.values import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHELL = ("/bin/sh",)


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a build where something can be run."""

    step: Step
    run: Run
    """What runs there: environment, user, folder, network, mounts, limits; its command is the shell."""
    on: str
    """The step whose file system it sees."""
    goals: tuple[str, ...]
    """The steps that must have been built for it."""


@dataclass(frozen=True, slots=True)
class Inside:
    """All that it takes to run something at a spot."""

    run: Run
    below: tuple[Layer, ...]
    layers: LayerStore
    sandbox: Sandbox
    mounts: MountMaker
    provisions: Provisions


def enter(
    inside: Inside, command: tuple[str, ...], session: Session | None, output: Output, cancelled: threading.Event
) -> int:
    """Run a command there, or the shell if it is empty, and give its exit code. What it changes is thrown away.

    Raises StepError `user-unknown`, HostError, InterruptedBuildError.
    """
    run = replace(inside.run, argv=command or inside.run.argv)
    with inside.mounts.prepared(run, inside.below, cancelled) as prepared:
        execution = execution_of(run, inside.below, inside.layers, inside.provisions, prepared)
        execution = replace(execution, session=session, capture=False, timeout=None)
        if session is not None and session.size is not None:
            execution = replace(execution, environment=with_terminal(execution.environment))
        with inside.sandbox.execute(execution, output, cancelled) as result:
            return result.code


def spot_of(plan: Plan, words: str, *, after: bool = False) -> Spot:
    """Where to run something: before that step ran, or after it. Raises UsageError."""
    graph, step, is_stage = find_in_plan(plan, words)
    return _spot(plan, graph, step, after=after or is_stage)


def result_spot(plan: Plan) -> Spot:
    """The file system that the image has, with what its configuration says."""
    return _spot(plan, plan.graph, plan.graph.step(plan.graph.result), after=True)


def _spot(plan: Plan, graph: BuildGraph, step: Step, *, after: bool) -> Spot:
    changes_files = after and not isinstance(step.operation, Metadata)
    on = step.id if changes_files or step.parent is None else step.parent
    run = _surroundings(plan, graph, step, after=after)
    inputs = step.inputs if isinstance(step.operation, Run) else ()
    return Spot(step, run, on, (*inputs, on))


def _surroundings(plan: Plan, graph: BuildGraph, step: Step, *, after: bool) -> Run:
    """What a command at a step sees: what the step itself says if it is a RUN; for the end of the target what the image
    is going to say; else what the nearest RUN of its stage says, or the base."""
    if isinstance(step.operation, Run):
        return replace(step.operation, argv=shell_of(step.operation), files=())
    if after and step.id == graph.result:
        return _from_config(graph)
    in_stage = [one for one in graph.steps if one.stage == step.stage]
    at = in_stage.index(step)
    for other in (*in_stage[at:], *reversed(in_stage[:at])):
        if isinstance(other.operation, Run):
            return replace(other.operation, argv=shell_of(other.operation), files=(), mounts=())
    base: Base = plan.base_of(step.id)
    config = base.configuration.config if base.configuration else None
    environment = dict(config.env) if config else {}
    environment.setdefault("PATH", DEFAULT_PATH)
    return Run(
        argv=(config.shell if config and config.shell else DEFAULT_SHELL)[:1],
        environment=tuple(sorted(environment.items())),
        user=config.user if config else "",
        working_dir=(config.working_dir if config else "") or "/",
        shape=graph.shape,
    )


def _from_config(graph: BuildGraph) -> Run:
    config = graph.config
    environment = dict(config.env)
    environment.setdefault("PATH", DEFAULT_PATH)
    return Run(
        argv=(config.shell or DEFAULT_SHELL)[:1],
        environment=tuple(sorted(environment.items())),
        user=config.user,
        working_dir=config.working_dir or "/",
        shape=graph.shape,
    )


def shell_of(operation: Run) -> tuple[str, ...]:
    """The shell that a RUN was written for, to be talked to: SHELL without the option that takes a script."""
    argv = operation.argv
    if len(argv) > 2 and argv[-2] in ("-c", "-ec", "-lc", "-exc", "-euc"):
        return argv[:-2]
    return DEFAULT_SHELL
