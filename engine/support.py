"""What a Machinefile may say and this engine cannot do yet: refused before anything runs, never ignored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.platforms import runs_here, step_platforms
from machinefile.errors import MachinefileError, Problem
from machinefile.platform import Platform, native
from machinefile.steps import BuildGraph, NetworkMode, Run, Step


def check_supported(graphs: Sequence[BuildGraph], *, host_network: bool = False) -> None:
    """Raises MachinefileError with everything in the graphs, one a platform, that cannot be done, or may not:
    --network=host unless `host_network` allows it."""
    problems: list[Problem] = []
    for graph in graphs:
        problems += (problem for problem in _problems(graph, host_network) if problem not in problems)
    if problems:
        raise MachinefileError(problems)


def _problems(graph: BuildGraph, host_network: bool) -> Iterator[Problem]:
    platforms = step_platforms(graph)
    for step in graph.steps:
        if isinstance(step.operation, Run):
            yield from _run_problems(step, step.operation, platforms[step.id], host_network)
    if graph.snapshot is not None and not runs_here(graph.platform):
        why = f"a machine for {graph.platform} cannot be started on this one, which is {native()}"
        yield _unsupported("SNAPSHOT", why, graph.steps[-1])


def _run_problems(step: Step, run: Run, platform: Platform, host_network: bool) -> Iterator[Problem]:
    if run.network is NetworkMode.HOST and not host_network:
        yield Problem(
            "RUN --network=host is refused: it opens the host's loopback interface to the step",
            "network-host-refused",
            step.span,
            "allow it with --allow network.host, or leave it out: the outside can be reached without it",
        )
    if not runs_here(platform):
        yield _foreign(step, platform)


def _foreign(step: Step, platform: Platform) -> Problem:
    return Problem(
        f"{step.id} ({_short(step.instruction)}) is to run on {platform}, and this machine is {native()}: that takes "
        f"a guest kernel for {platform.architecture} and an emulator, which mbuild does not have yet",
        "run-foreign",
        step.span,
        "begin the stage with FROM --platform=$BUILDPLATFORM to run it as this machine is, and COPY --from=STAGE what "
        "it makes",
    )


def _short(instruction: str) -> str:
    return instruction if len(instruction) <= 60 else instruction[:59] + "…"


def _unsupported(what: str, why: str, step: Step) -> Problem:
    return Problem(f"{what} is not supported: {why}", "unsupported", step.span)
