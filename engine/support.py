"""What a Machinefile may say and this engine cannot do yet: refused before anything runs, never ignored."""

from __future__ import annotations

from machinefile.errors import MachinefileError, Problem
from machinefile.platform import native
from machinefile.steps import BuildGraph, NetworkMode, Run, Step


def check_supported(graph: BuildGraph) -> None:
    """Raises MachinefileError with everything in the graph that cannot be done."""
    runs = ((step, step.operation) for step in graph.steps if isinstance(step.operation, Run))
    problems = [problem for step, run in runs for problem in _run_problems(step, run, graph)]
    if graph.snapshot is not None and graph.platform.architecture != native().architecture:
        why = f"a machine for {graph.platform} cannot be started on this one, which is {native()}"
        problems.append(_unsupported("SNAPSHOT", why, graph.steps[-1]))
    if problems:
        raise MachinefileError(problems)


def _run_problems(step: Step, run: Run, graph: BuildGraph) -> list[Problem]:
    found = [
        _unsupported(f"RUN --mount=type={mount.type.value}", "mounts cannot be made yet", step) for mount in run.mounts
    ]
    if run.network is NetworkMode.HOST:
        found.append(
            Problem(
                "RUN --network=host is refused: a step never shares the host's network",
                "network-host-refused",
                step.span,
                "leave it out for a network of its own with the outside reachable, or use --network=none",
            )
        )
    if graph.platform.architecture != native().architecture:
        found.append(
            _unsupported("RUN", f"a step for {graph.platform} cannot run on this machine, which is {native()}", step)
        )
    return found


def _unsupported(what: str, why: str, step: Step) -> Problem:
    return Problem(f"{what} is not supported: {why}", "unsupported", step.span)
