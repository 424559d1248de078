"""What only mbuild does: a plan, and restored microVMs."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmark import specs
from benchmark.job import Output
from benchmark.measure import BenchError, Ran, Sample, run
from benchmark.peer import Mbuild
from benchmark.place import ROOT, Place
from benchmark.scenario import PLANNED


@dataclass(frozen=True, slots=True)
class OwnScenario:
    """A command of mbuild's, or one that uses its parts."""

    name: str
    title: str
    argv: Callable[[Place, Mbuild], list[str]]
    figure: Callable[[Ran], tuple[float, str]]
    """The seconds that count, and what must be the same each time. Raises BenchError."""

    def measure(self, place: Place, mbuild: Mbuild) -> tuple[Sample, str]:
        """Run it once."""
        argv = self.argv(place, mbuild)
        with (place.folder / "errors.txt").open("w+b") as errors:  # warnings are no part of what is read
            try:
                ran = run(argv, _environment(mbuild), place.folder, errors=errors)
            except BenchError as error:
                errors.seek(0)
                raise BenchError(f"{error}{errors.read().decode(errors='replace')[-3000:]}") from error
        seconds, result = self.figure(ran)
        return Sample(seconds, ran.cpu, ran.memory), result


def _environment(mbuild: Mbuild) -> Mapping[str, str]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "scripts", ROOT / "tests")))
    return {**mbuild.environment, "PYTHONPATH": path}


def _plan(place: Place, mbuild: Mbuild) -> list[str]:
    job = place.job(place.context("planned"), specs.many_instructions(place.busybox, PLANNED))
    return [mbuild.program, "plan", "--format", "json", "-f", str(job.file), str(job.context)]


def _planned(ran: Ran) -> tuple[float, str]:
    steps = json.loads(ran.output)["steps"]
    if len(steps) < PLANNED // 2:
        raise BenchError(f"the plan has {len(steps)} steps")
    return ran.seconds, hashlib.sha256(repr([step["key"] for step in steps]).encode()).hexdigest()


def _restored(what: str) -> Callable[[Ran], tuple[float, str]]:
    return lambda ran: (float(json.loads(ran.output)[what]), "")


def _template(place: Place, mbuild: Mbuild) -> list[str]:
    return [sys.executable, "-m", "benchmark.restores", str(mbuild.store), "template"]


def _machine(place: Place, mbuild: Mbuild) -> list[str]:
    job = place.job(place.context("machine"), specs.MACHINE.format(base=place.busybox), Output.NAME)
    (argv,) = mbuild.commands(job)
    run(argv, mbuild.environment, place.folder)  # cached, but for the first time
    return [sys.executable, "-m", "benchmark.restores", str(mbuild.store), mbuild.outcome(job).digest]


OWN = (
    OwnScenario("plan-1000", "a file of 1,000 instructions planned", _plan, _planned),
    OwnScenario("restore-template", "a template restored, to the agent's answer", _template, _restored("template")),
    OwnScenario("restore-machine", "a machine restored, to its agent's answer", _machine, _restored("agent")),
    OwnScenario("restore-page", "a machine restored, to its first page", _machine, _restored("page")),
)
