"""What a build would do, known before anything runs: every step, its key, and whether its result is there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from cache.keys import Record, Value
from cache.results import Layer, StepResult
from cache.spans import span
from cache.store import Store
from engine.bases import Base
from engine.lookup import Results, ttl_of
from engine.platforms import step_platforms
from engine.records import HashedTree, record_of
from machinefile.errors import MbuildError
from machinefile.platform import Platform
from machinefile.steps import BuildGraph, From, Metadata, Step
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step and what is known of it."""

    step: Step
    platform: Platform
    """What its stage is for."""
    record: Record
    key: str
    """The definition key."""
    hit: bool
    reason: str
    """Why it hits or misses, in words."""
    result: StepResult | None = None
    """What it came to, for a hit of a step that makes a file system."""
    dated: bool = False
    """It stands on a step that may run again, or has, though its result is there (RUN --ttl, --no-cache-filter), or
    reads the files of one: a result counts only if it was made of the very files that are there now."""
    seconds: float | None = None
    """How long it took when it, or what it was before a change, last ran: see engine/explain/reasons.py."""


@dataclass(frozen=True)
class Plan:
    """A build graph with the keys of all its steps; for several platforms all their graphs, see engine/joining.py."""

    graphs: tuple[BuildGraph, ...]
    """One a platform, in the order in which they were asked for."""
    steps: tuple[PlannedStep, ...]
    """Each after what it needs; once, if several graphs have it."""
    bases: Mapping[str, Base]
    """The resolved image of each From step, by its id."""
    platforms: tuple[Platform, ...] = ()
    """What the graphs are for, as it was asked for."""

    @property
    def graph(self) -> BuildGraph:
        """The first of the graphs: the only one, for one platform."""
        return self.graphs[0]

    @property
    def results(self) -> tuple[str, ...]:
        """The ids of the steps whose file systems the images have, one a graph."""
        return tuple(graph.result for graph in self.graphs)

    @cached_property
    def by_id(self) -> Mapping[str, PlannedStep]:
        """The steps by their ids."""
        return {planned.step.id: planned for planned in self.steps}

    def step(self, step_id: str) -> PlannedStep:
        """The step of that id. Raises KeyError."""
        return self.by_id[step_id]

    def targets_of(self, step_id: str) -> tuple[Platform, ...]:
        """The platforms that were asked for and whose graphs have a step."""
        return self._targets[step_id]

    @cached_property
    def _targets(self) -> Mapping[str, tuple[Platform, ...]]:
        found: dict[str, tuple[Platform, ...]] = {}
        for platform, graph in zip(self.platforms, self.graphs, strict=True):
            for step in graph.steps:
                if platform not in found.get(step.id, ()):
                    found[step.id] = (*found.get(step.id, ()), platform)
        return found

    def root_of(self, step_id: str) -> str:
        """The id of the From step that a step's file system began with."""
        while (parent := self.by_id[step_id].step.parent) is not None:
            step_id = parent
        return step_id

    def base_of(self, step_id: str) -> Base:
        """The image that a step's file system began with."""
        return self.bases[self.root_of(step_id)]

    def to_run(self, goals: Sequence[str] = ()) -> tuple[PlannedStep, ...]:
        """The steps whose results are missing and needed, for the target or for the steps `goals`, in an order that
        they can run in.

        What only leads to a result that is there is not needed.
        """
        needed: set[str] = set()
        todo = list(goals or self.results)
        while todo:
            planned = self.by_id[todo.pop()]
            step = planned.step
            if step.id in needed or planned.hit or isinstance(step.operation, From):
                continue
            needed.add(step.id)
            todo += [other for other in (step.parent, *step.inputs) if other is not None]
        return tuple(planned for planned in self.steps if planned.step.id in needed)

    def below(self, goals: Sequence[str]) -> set[str]:
        """The ids of those steps and of all that they stand on."""
        found: set[str] = set()
        todo = list(goals)
        while todo:
            step = self.step(todo.pop()).step
            if step.id not in found:
                found.add(step.id)
                todo += [needed for needed in (step.parent, *step.inputs) if needed is not None]
        return found

    def counted(self) -> tuple[PlannedStep, ...]:
        """The steps that may make a layer: those whose hits and runs a build counts."""
        return tuple(one for one in self.steps if one.step.makes_layer)


def make_plan(
    graph: BuildGraph, bases: Mapping[str, Base], contexts: Mapping[str, HashedTree], store: Store, results: Results
) -> Plan:
    """Compute every key and look each one up: in other caches only if something needed is missing here. Reads the
    context and the index; runs nothing.

    Raises MachinefileError when the context lacks a file, with the instruction's place.
    """
    platforms = step_platforms(graph)
    keys: dict[str, str] = {}
    records: dict[str, Record] = {}
    dated: set[str] = set()
    for step in graph.steps:
        try:
            with span("key", "plan", step=step.id):
                record = record_of(step, platforms[step.id], keys.__getitem__, contexts)
        except MbuildError as error:
            raise located(error, step) from error
        keys[step.id] = record.key()
        records[step.id] = record
        on_dated = not dated.isdisjoint((step.parent, *step.inputs))
        if on_dated or ttl_of(step) is not None or (step.makes_layer and results.refused(step)):
            dated.add(step.id)

    def looked_up() -> Plan:
        done: dict[str, PlannedStep] = {}
        depths: dict[str | None, int] = {None: 0}
        for step in graph.steps:
            depths[step.id] = depths[step.parent] + step.makes_layer
            done[step.id] = _look_up(
                step,
                platforms[step.id],
                records[step.id],
                keys[step.id],
                done,
                bases,
                store,
                results,
                depths[step.id],
                dated=not dated.isdisjoint((step.parent, *step.inputs)),
            )
        return Plan((graph,), tuple(done.values()), bases)

    with span("look up", "plan"), results.at_once([keys[step.id] for step in graph.steps if step.makes_layer]):
        plan = looked_up()
        return looked_up() if plan.to_run() and results.look_elsewhere() else plan


NEVER_BUILT = "never built with these inputs"
EVICTED = "built before, but its layers are gone from the store"
NOT_PULLED = "the base has not been pulled"


def waits_for(step_id: str) -> str:
    """The reason of a step whose file system, or whose input's, is missing itself."""
    return f"{step_id} below it is to be built"


def content_identity(layers: tuple[Layer, ...]) -> str:
    """What stands for a file system in a content key: its layers' diff ids, whatever made them."""
    whole = "\n".join(layer.diff_id for layer in layers)
    return "layers:" + hashlib.sha256(whole.encode()).hexdigest()


def content_record(record: Record, step: Step, layers_of: Callable[[str], tuple[Layer, ...]]) -> Record:
    """The record of a step's content key, from that of its definition key."""
    identities: dict[str, Value] = {
        "parent": content_identity(layers_of(step.parent)) if step.parent is not None else None,
        "inputs": tuple(content_identity(layers_of(needed)) for needed in step.inputs),
    }
    return Record(record.operation, tuple((name, identities.get(name, value)) for name, value in record.fields))


def located(error: MbuildError, step: Step) -> MbuildError:
    """The error with the step's place in the Machinefile, if it has none."""
    from dataclasses import replace

    from machinefile.errors import MachinefileError

    if error.span is None:
        error.span = step.span
        if isinstance(error, MachinefileError):
            error.problems = tuple(replace(problem, span=problem.span or step.span) for problem in error.problems)
    return error


def _look_up(
    step: Step,
    platform: Platform,
    record: Record,
    key: str,
    done: Mapping[str, PlannedStep],
    bases: Mapping[str, Base],
    store: Store,
    results: Results,
    depth: int,
    *,
    dated: bool,
) -> PlannedStep:
    if isinstance(step.operation, From):
        here = bases[step.id].is_stored(store)
        reason = "the base is in the store" if here else NOT_PULLED
        return PlannedStep(step, platform, record, key, here, reason)
    if isinstance(step.operation, Metadata):
        above = done[step.parent] if step.parent is not None else None
        hit = above is None or above.hit
        return PlannedStep(step, platform, record, key, hit, "changes the configuration only")
    waiting = missing_below(step, done)
    if not dated:
        result = results.by_definition(step, key, depth)
    else:
        result = None if waiting else _made_of_the_same(step, record, done, bases, results)
    if result is not None:
        found = results.source_of(key, result)
        reason = f"in the cache {found.label}" if found is not None else "built before"
        return PlannedStep(step, platform, record, key, True, reason, result, dated=dated)
    reason = _why_missing(step, key, waiting, results, dated=dated)
    return PlannedStep(step, platform, record, key, False, reason, dated=dated)


def _made_of_the_same(
    step: Step, record: Record, done: Mapping[str, PlannedStep], bases: Mapping[str, Base], results: Results
) -> StepResult | None:
    """A result that was made of the files which the steps below have now."""

    def layers_of(step_id: str) -> tuple[Layer, ...]:
        result, root = done[step_id].result, done[step_id].step
        while root.parent is not None:
            root = done[root.parent].step
        return bases[root.id].layers + (result.layers if result is not None else ())

    below = done[step.parent].result if step.parent is not None else None
    read = (done[step_id].result for step_id in step.inputs)
    return results.on_top_of(below or StepResult(), step, content_record(record, step, layers_of).key(), read)


def _why_missing(step: Step, key: str, waiting: str, results: Results, *, dated: bool) -> str:
    if why := results.refused(step) or results.too_old(step, key):
        return why
    if dated and waiting:
        return waits_for(waiting)
    if dated and results.by_definition(step, key) is not None:
        return "built before, of other files than are there now"
    if not dated and (said := results.refused_elsewhere(key)):
        return said
    if results.was_made(key):
        return EVICTED
    return waits_for(waiting) if waiting else NEVER_BUILT


def missing_below(step: Step, done: Mapping[str, PlannedStep]) -> str:
    """The first step that has to be built before a step can be; empty when there is none."""
    for needed in (step.parent, *step.inputs):
        if needed is not None and not done[needed].hit and not isinstance(done[needed].step.operation, From):
            return needed
    return ""
