"""Runs scenarios: each builder in turn, round after round, every result checked."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmark.breakdown import breakdown
from benchmark.buildkit import find_buildkit
from benchmark.job import Job, Outcome
from benchmark.measure import BenchError, DaemonWatch, Ran, Sample, Spread, run
from benchmark.own import OWN, OwnScenario
from benchmark.peer import Buildah, Mbuild, Peer
from benchmark.place import Place
from benchmark.registry import serving
from benchmark.results import FAILED, Results, Row
from benchmark.scenario import SCENARIOS, Phase, Scenario

NAMES = tuple(scenario.name for scenario in (*SCENARIOS, *OWN))
PEERS = ("mbuild", "buildah", "buildkit")


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def compare(
    folder: Path,
    rounds: int,
    names: Sequence[str] = NAMES,
    peers: Sequence[str] = PEERS,
    *,
    small: bool = False,
    long_alone: bool = False,
) -> Results:
    """Measure scenarios. `small`: with the base of 2 MB everywhere; `long_alone`: long ones without the other builders.
    The results tell what failed. Raises BenchError."""
    with ExitStack() as stack:
        place = Place(folder, stack.enter_context(serving(folder)), small=small)
        mbuild = Mbuild(folder / "mbuild")
        found: list[Peer] = [mbuild]
        missing: dict[str, str] = {}
        makers: dict[str, Callable[[], Peer]] = {
            "buildah": lambda: Buildah(folder / "buildah", stack),
            "buildkit": lambda: find_buildkit(folder / "buildkit", stack),
        }
        for key in (key for key in makers if key in peers):
            try:
                found.append(makers[key]())
            except BenchError as error:
                missing[key] = str(error)
                say(f"{key} is left out: {error}")
        turns = count(1)
        rows: list[Row] = []
        for scenario in (*SCENARIOS, *OWN):
            if scenario.name not in names:
                continue
            try:
                if isinstance(scenario, OwnScenario):
                    rows.append(_alone(scenario, place, mbuild, rounds))
                else:
                    taking_part = [mbuild] if scenario.long and long_alone else found
                    rows.append(_Contest(scenario, place, taking_part, turns, missing).row(rounds))
            except BenchError as error:  # hours of other figures must not go with it
                missing[f"{FAILED}{scenario.name}"] = str(error)
                say(f"{scenario.name} failed: {error}")
            except KeyboardInterrupt:
                missing[f"{FAILED}{scenario.name}"] = "stopped here"
                break
        return Results({peer.key: peer.label for peer in found}, missing, rounds, tuple(rows))


@dataclass
class _Contest:
    """One scenario, all builders."""

    scenario: Scenario
    place: Place
    peers: list[Peer]
    turns: Iterator[int]
    missing: dict[str, str]
    digests: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def row(self, rounds: int) -> Row:
        """Warm each up, then take turns."""
        ready = [peer for peer in self.peers if self._warm(peer)]
        samples: dict[str, list[Sample]] = {peer.key: [] for peer in ready}
        for _ in range(rounds):
            for peer in ready:
                samples[peer.key].append(self._measure(peer))
        spreads = {key: Spread(tuple(values)) for key, values in samples.items()}
        shown = ", ".join(f"{key} {spread.seconds:.3f} s" for key, spread in spreads.items())
        say(f"{self.scenario.name}: {shown}")
        return Row(self.scenario.name, self.scenario.title, spreads, self._parts())

    def _parts(self) -> dict[str, float]:
        """Where mbuild's time goes, in builds of their own: what is recorded is not measured."""
        if not self.scenario.profiled:
            return {}
        (mbuild,) = (peer for peer in self.peers if peer.key == "mbuild")
        trace = mbuild.folder / "trace.json"
        found = []
        for _ in range(1 if self.place.small else self.scenario.profiled):
            self._measure(mbuild, ("--profile", str(trace)))
            found.append(breakdown(trace))
        return {name: statistics.median(one.get(name, 0.0) for one in found) for name in found[0]}

    def _warm(self, peer: Peer) -> bool:
        """Build once, unmeasured, so that what is to be cached is. False if a peer cannot."""
        try:
            if self.scenario.prepare is not None:
                self._build(peer, self.scenario.prepare(self.place, next(self.turns)))
            if self.scenario.cold:
                peer.empty()
            _, outcome = self._build(peer, self.scenario.job(self.place, next(self.turns)))
            self.digests[peer.key] = (outcome.digest,)
        except BenchError as error:
            if peer.key == "mbuild":
                raise
            self.missing[f"{peer.key}: {self.scenario.name}"] = str(error).strip().splitlines()[-1]
            say(f"{self.scenario.name}: {peer.key} cannot: {error}")
            return False
        return True

    def _build(self, peer: Peer, job: Job, more: tuple[str, ...] = ()) -> tuple[Sample, Outcome]:
        job = job.of(peer.key)
        if not self.place.small:
            os.sync()  # what one of them leaves to be written must not hold up the other
        watch = DaemonWatch(peer.daemons)
        ran = [run((*argv, *more), peer.environment, peer.folder) for argv in peer.commands(job)]
        cpu = sum(one.cpu for one in ran) + watch.cpu
        memory = max(watch.memory, *(one.memory for one in ran))
        return Sample(self._seconds(ran), cpu, memory), peer.outcome(job)

    def _seconds(self, ran: Sequence[Ran]) -> float:
        whole = sum(one.seconds for one in ran)
        marks = ran[0].marks
        try:
            match self.scenario.phase:
                case Phase.TO_BEGIN:
                    return marks["begun"]
                case Phase.FROM_WRITTEN:
                    return whole - marks["written"]
        except KeyError as error:
            raise BenchError(f"{self.scenario.name}: no step said {error}: it did not run") from error
        return whole

    def _measure(self, peer: Peer, more: tuple[str, ...] = ()) -> Sample:
        if self.scenario.cold:
            peer.empty()
        sample, outcome = self._build(peer, self.scenario.job(self.place, next(self.turns)), more)
        earlier = self.digests[peer.key]
        wrong = self.scenario.check(outcome, earlier, reproducible=peer.reproducible)
        if wrong:
            raise BenchError(f"{self.scenario.name}, {peer.key}: {wrong}")
        self.digests[peer.key] = (*earlier, outcome.digest)
        return sample


def _alone(scenario: OwnScenario, place: Place, mbuild: Mbuild, rounds: int) -> Row:
    _, expected = scenario.measure(place, mbuild)
    samples = []
    for _ in range(rounds):
        sample, result = scenario.measure(place, mbuild)
        if result != expected:
            raise BenchError(f"{scenario.name}: the result is another than before")
        samples.append(sample)
    spread = Spread(tuple(samples))
    say(f"{scenario.name}: mbuild {spread.seconds:.3f} s")
    return Row(scenario.name, scenario.title, {"mbuild": spread})
