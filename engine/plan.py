"""What a build would do, known before anything runs: every step, its key, and whether its result is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cache.index import Kind
from cache.keys import Record
from cache.results import Layer, StepResult
from cache.store import Store
from engine.bases import Base
from engine.records import HashedTree, record_of
from machinefile.errors import MbuildError
from machinefile.steps import BuildGraph, From, Metadata, Step


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step and what is known of it."""

    step: Step
    record: Record
    key: str
    """The definition key."""
    hit: bool
    reason: str
    """Why it hits or misses, in words."""
    result: StepResult | None = None
    """What it came to, for a hit of a step that makes a file system."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A build graph with the keys of all its steps."""

    graph: BuildGraph
    steps: tuple[PlannedStep, ...]
    """In the graph's order: each after what it needs."""
    bases: Mapping[str, Base]
    """The resolved image of each From step, by its id."""

    def step(self, step_id: str) -> PlannedStep:
        """The step of that id. Raises KeyError."""
        return {planned.step.id: planned for planned in self.steps}[step_id]

    def root_of(self, step_id: str) -> str:
        """The id of the From step that a step's file system began with."""
        return self.graph.chain(step_id)[0].id

    def base_of(self, step_id: str) -> Base:
        """The image that a step's file system began with."""
        return self.bases[self.root_of(step_id)]

    def to_run(self, goals: Sequence[str] = ()) -> tuple[PlannedStep, ...]:
        """The steps whose results are missing and needed, for the target or for the steps `goals`, in an order that
        they can run in.

        What only leads to a result that is there is not needed.
        """
        by_id = {planned.step.id: planned for planned in self.steps}
        needed: set[str] = set()
        todo = list(goals or (self.graph.result,))
        while todo:
            planned = by_id[todo.pop()]
            step = planned.step
            if step.id in needed or planned.hit or isinstance(step.operation, From):
                continue
            needed.add(step.id)
            todo += [other for other in (step.parent, *step.inputs) if other is not None]
        return tuple(planned for planned in self.steps if planned.step.id in needed)

    def counted(self) -> tuple[PlannedStep, ...]:
        """The steps that may make a layer: those whose hits and runs a build counts."""
        return tuple(one for one in self.steps if one.step.makes_layer)


def make_plan(
    graph: BuildGraph, bases: Mapping[str, Base], contexts: Mapping[str, HashedTree], store: Store, *, use_cache: bool
) -> Plan:
    """Compute every key and look each one up. Reads the context and the index; runs nothing.

    Raises MachinefileError when the context lacks a file, with the instruction's place.
    """
    keys: dict[str, str] = {}
    planned: list[PlannedStep] = []
    done: dict[str, PlannedStep] = {}
    for step in graph.steps:
        try:
            record = record_of(step, graph.platform, keys.__getitem__, contexts)
        except MbuildError as error:
            raise located(error, step) from error
        keys[step.id] = record.key()
        one = _look_up(step, record, done, bases, store, use_cache=use_cache)
        done[step.id] = one
        planned.append(one)
    return Plan(graph, tuple(planned), bases)


def content_identity(layers: tuple[Layer, ...]) -> str:
    """What stands for a file system in a content key: its layers' diff ids, whatever made them."""
    whole = "\n".join(layer.diff_id for layer in layers)
    return "layers:" + hashlib.sha256(whole.encode()).hexdigest()


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
    record: Record,
    done: Mapping[str, PlannedStep],
    bases: Mapping[str, Base],
    store: Store,
    *,
    use_cache: bool,
) -> PlannedStep:
    key = record.key()
    if isinstance(step.operation, From):
        here = bases[step.id].is_stored(store)
        reason = "the base is in the store" if here else "the base has not been pulled"
        return PlannedStep(step, record, key, here, reason)
    if isinstance(step.operation, Metadata):
        above = done[step.parent] if step.parent is not None else None
        hit = above is None or above.hit
        return PlannedStep(step, record, key, hit, "changes the configuration only")
    if not use_cache:
        return PlannedStep(step, record, key, False, "--no-cache")
    result = store.result(Kind.RESULT, key)
    if result is not None:
        return PlannedStep(step, record, key, True, "built before", result)
    return PlannedStep(step, record, key, False, _why_missing(step, key, done, store))


def _why_missing(step: Step, key: str, done: Mapping[str, PlannedStep], store: Store) -> str:
    if store.index.get(Kind.RESULT, key) is not None:
        return "built before, but its layers are gone from the store"
    for needed in (step.parent, *step.inputs):
        if needed is not None and not done[needed].hit and not isinstance(done[needed].step.operation, From):
            return f"{needed} below it is to be built"
    return "never built with these inputs"
