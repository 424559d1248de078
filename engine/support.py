"""What a Machinefile may say and this engine cannot do yet: refused before anything runs, never ignored."""

from __future__ import annotations

from machinefile.errors import MachinefileError, Problem
from machinefile.platform import native
from machinefile.steps import BuildGraph, NetworkMode, Run, Step


def check_supported(graph: BuildGraph, *, host_network: bool = False) -> None:
    """Raises MachinefileError with everything in the graph that cannot be done, or may not: --network=host unless
    `host_network` allows it."""
    runs = ((step, step.operation) for step in graph.steps if isinstance(step.operation, Run))
    problems = [problem for step, run in runs for problem in _run_problems(step, run, graph, host_network)]
    if graph.snapshot is not None and graph.platform.architecture != native().architecture:
        why = f"a machine for {graph.platform} cannot be started on this one, which is {native()}"
        problems.append(_unsupported("SNAPSHOT", why, graph.steps[-1]))
    if problems:
        raise MachinefileError(problems)


def _run_problems(step: Step, run: Run, graph: BuildGraph, host_network: bool) -> list[Problem]:
    found: list[Problem] = []
    if run.network is NetworkMode.HOST and not host_network:
        found.append(
            Problem(
                "RUN --network=host is refused: it opens the host's loopback interface to the step",
                "network-host-refused",
                step.span,
                "allow it with --allow network.host, or leave it out: the outside can be reached without it",
            )
        )
    if graph.platform.architecture != native().architecture:
        found.append(
            _unsupported("RUN", f"a step for {graph.platform} cannot run on this machine, which is {native()}", step)
        )
    return found


def _unsupported(what: str, why: str, step: Step) -> Problem:
    return Problem(f"{what} is not supported: {why}", "unsupported", step.span)
