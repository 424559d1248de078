"""What the steps of a Machinefile were when it was last built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property

from cache.index import Kind
from cache.keys import Record
from cache.records import pack
from cache.results import StepResult, seconds_of
from cache.store import Store
from engine.plan import Plan, PlannedStep
from engine.request import BuildRequest
from machinefile.steps import From, Metadata
from machinefile.values import dataclass

GENERATIONS = 4
"""Builds of a step that are remembered."""
_MOST_PLACES = 5000
"""Steps of a Machinefile, over all platforms."""
_MOST_PROJECTS = 256


@dataclass(frozen=True, slots=True)
class Trace:
    """A step as it once was."""

    key: str
    operation: str
    instruction: str
    """As it was shown, cut to 500 characters."""
    seconds: float
    """How long it took when it ran."""
    created: float
    """When that was, in seconds since 1970."""

    def to_json(self) -> list[object]:
        """As the index keeps it."""
        return [self.key, self.operation, self.instruction, self.seconds, self.created]


def _trace(value: object) -> Trace | None:
    match value:
        case [str(key), str(operation), str(instruction), took, when]:
            seconds, created = seconds_of(took), seconds_of(when)
            if seconds is not None and created is not None:
                return Trace(key, operation, instruction, seconds, created)
    return None


def project_of(request: BuildRequest) -> str:
    """What stands for a Machinefile: its path, or of one that came by standard input, its context's."""
    name = request.machinefile.source.name
    place = os.path.abspath(request.context / "-" if name == "-" else name)
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()


class Past:
    """The last builds of one Machinefile, by the places of its steps: platform and id, `linux/amd64 build.3`."""

    def __init__(self, store: Store, project: str) -> None:
        self._store = store
        self._project = project
        self._places = self._load()

    def _load(self) -> dict[str, tuple[Trace, ...]]:
        raw = self._store.index.get(Kind.PAST, self._project)
        if not isinstance(raw, dict):
            return {}
        return {
            str(place): tuple(trace for one in traces if (trace := _trace(one)) is not None)
            for place, traces in raw.items()
            if isinstance(traces, list)
        }

    def instruction(self, key: str) -> str:
        """What a step with that key was called; empty where that is not known."""
        return self._instructions.get(key, "")

    @cached_property
    def _instructions(self) -> dict[str, str]:
        return {trace.key: trace.instruction for traces in self._places.values() for trace in traces}

    def aligned(self, plan: Plan) -> dict[str, tuple[Trace, ...]]:
        """What each step of a plan was before, by its id, newest first. Lines may have been put in between or taken
        out since: the steps of a stage are laid beside its old ones as diff does it."""
        new: dict[str, list[tuple[str, PlannedStep]]] = {}
        for planned in plan.steps:
            if not isinstance(planned.step.operation, Metadata):
                stage = place_of(plan, planned).rpartition(".")[0]
                new.setdefault(stage, []).append((planned.step.id, planned))
        old: dict[str, list[tuple[int, tuple[Trace, ...]]]] = {}
        for place, traces in self._places.items():
            stage, _, number = place.rpartition(".")
            if stage in new and traces and number.isdecimal():
                old.setdefault(stage, []).append((int(number), traces))
        found: dict[str, tuple[Trace, ...]] = {}
        for stage, were in old.items():
            before = [traces for _, traces in sorted(were, key=lambda one: one[0])]
            found.update(_align(before, new[stage]))
        return found

    def remember(self, plan: Plan, results: Mapping[str, StepResult]) -> None:
        """Keep what the steps are now, of those that have results. Writes only what is new. Raises StoreError."""
        places = dict(self._places)
        dropped: list[Trace] = []
        present: set[str] = set()
        for planned in plan.steps:
            place = place_of(plan, planned)
            present.add(place)
            result = results.get(planned.step.id)
            if result is None or isinstance(planned.step.operation, Metadata):
                continue
            is_from = isinstance(planned.step.operation, From)
            trace = Trace(
                planned.key,
                planned.record.operation,
                planned.step.instruction[:500],
                0.0 if is_from else result.seconds,
                0.0 if is_from else result.created,
            )
            known = places.get(place, ())
            if known[:1] != (trace,):
                if is_from:
                    self._keep_base(planned.record, trace)
                others = tuple(one for one in known if one.key != trace.key)
                places[place] = (trace, *others[: GENERATIONS - 1])
                dropped += others[GENERATIONS - 1 :]
        stages = {place.rpartition(".")[0] for place in present}
        places = {
            place: traces
            for place, traces in places.items()
            if place in present or place.rpartition(".")[0] not in stages
        }
        if places != self._places:
            kept = sorted(places, key=lambda place: place not in present)[:_MOST_PLACES]
            self._write({place: places[place] for place in kept}, dropped)

    def _keep_base(self, record: Record, trace: Trace) -> None:
        """A base has no result of its own that its record would be kept with."""
        if (packed := pack(record, trace.instruction)) is not None:
            self._store.index.put(Kind.RECORD, trace.key, packed)

    def _write(self, places: dict[str, tuple[Trace, ...]], dropped: list[Trace]) -> None:
        index = self._store.index
        if not index.has(Kind.PAST, self._project):
            for project in list(index.keys(Kind.PAST))[: -_MOST_PROJECTS + 1]:
                index.drop(Kind.PAST, project)
        index.put(Kind.PAST, self._project, {place: [one.to_json() for one in places[place]] for place in places})
        self._places = places
        for trace in dropped:
            # The lists of files of a large COPY would pile up with each file that is edited.
            raw = index.get(Kind.RECORD, trace.key) if trace.operation == "copy" else None
            if isinstance(raw, dict) and "packed" in raw:
                index.drop(Kind.RECORD, trace.key)


def place_of(plan: Plan, planned: PlannedStep) -> str:
    """Where a step stands, whatever else is built with it: its platform, and its id in a plan for that alone."""
    bare = planned.step.id
    for platform in plan.platforms:
        bare = bare.removesuffix(f"@{platform}")
    return f"{planned.platform} {bare}"


def _align(before: list[tuple[Trace, ...]], now: list[tuple[str, PlannedStep]]) -> dict[str, tuple[Trace, ...]]:
    found: dict[str, tuple[Trace, ...]] = {}
    import difflib

    old = [traces[0].instruction for traces in before]
    new = [planned.step.instruction[:500] for _, planned in now]
    for kind, start, end, at, until in difflib.SequenceMatcher(None, old, new).get_opcodes():
        if kind not in ("equal", "replace"):
            continue
        one_by_one = end - start == until - at
        rest = list(range(start, end))
        for place in range(at, until):
            step_id, planned = now[place]
            candidates = [start + place - at] if one_by_one else rest
            chosen = [one for one in candidates if before[one][0].operation == planned.record.operation]
            if not one_by_one:
                # Of lines that were exchanged for others, the first that begins with the same words is the one meant.
                chosen = [one for one in chosen if _head(old[one]) == _head(new[place])] or chosen
            if chosen:
                found[step_id] = before[chosen[0]]
                rest = rest if one_by_one else [one for one in rest if one > chosen[0]]
    return found


def _head(instruction: str) -> list[str]:
    """The first words of an instruction, without its flags."""
    words = [word for word in instruction.split() if not word.startswith("--")]
    return words[:2]
