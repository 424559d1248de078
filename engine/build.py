"""Carrying out a plan: the steps whose results are missing, each after what it needs, side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from cache.results import Layer, StepResult
from cache.spans import Span, span
from cache.store import Store
from engine.context import BuildContext
from engine.events import Note, Observer, Outcome, Planned, StepEnded, StepStarted
from engine.labels import labels_of
from engine.lookup import Results
from engine.plan import Plan, PlannedStep, content_record, located
from engine.records import files_read
from engine.schedule import Job, carry_out
from engine.steps.provisions import Provisions
from engine.steps.worker import Worker
from engine.supply import LayerSupply, LostLayerError
from machinefile.errors import InterruptedBuildError, MbuildError, StepError
from machinefile.steps import From, Metadata, Run, Step

if TYPE_CHECKING:
    from engine.bases import Bases
    from engine.layerstore import LayerStore
    from engine.remote.remotes import Remotes
    from engine.steps.mounts import MountMaker
    from engine.vm.execution import Sandbox


class Build:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        bases: Bases,
        layers: LayerStore,
        sandbox: Sandbox,
        contexts: Mapping[str, BuildContext],
        remotes: Remotes,
        supply: LayerSupply,
        observer: Observer,
        cancelled: threading.Event,
        *,
        results: Results | None = None,
        jobs: int = 1,
        provisions: Provisions | None = None,
    ) -> None:
        """`results` finds those that may be used; `jobs` is how many steps may run at once."""
        self._plan = plan
        self._store = store
        self._bases = bases
        self._layers = layers
        self._sandbox = sandbox
        self._contexts = contexts
        self._supply = supply
        self._tell = observer
        self._cancelled = cancelled
        self._known = results or Results(store)
        self._at_once = jobs
        self.provisions = provisions or Provisions()
        self._worker = Worker(store, layers, sandbox, contexts, remotes, self.provisions, self.layers_of, observer)
        self._results = {
            planned.step.id: planned.result or StepResult()
            for planned in plan.steps
            if planned.result is not None or isinstance(planned.step.operation, From)
        }
        self._labels: dict[str, str] = {}
        self._after_runs: Mapping[str, Run] = {}
        self._stood_on: frozenset[str] = frozenset()
        self._begun: set[str] = set()
        self.run_steps: set[str] = set()
        """The ids of the steps that ran: neither the plan nor their content key had a result for them."""
        self._lost: dict[str, LostLayerError] = {}
        """What could not be done for want of a layer, and what needs it."""

    @property
    def mounts(self) -> MountMaker:
        """Makes what RUNs mount."""
        return self._worker.mounts

    @property
    def results(self) -> Mapping[str, StepResult]:
        """What is known so far, by the ids of the steps; of a base that nothing stands on it."""
        return self._results

    def run(self, goals: Sequence[str] = (), *, whole: bool = True) -> tuple[StepResult, ...]:
        """Bring every missing result into the store and give the target's, one a platform; or those of the steps
        `goals`. With `whole` all layers of these are in the store then; else those that no step read may be elsewhere.

        Raises StepError, HostError, TransferError, or InterruptedBuildError soon after `cancelled` is set;
        LostLayerError when all that does not need a certain layer of another cache was done.
        """
        visible = self._plan.below(goals) if goals else self._plan.by_id.keys()
        goals = goals or self._plan.results
        to_run = self._plan.to_run(goals)
        if to_run:
            self._known.look_elsewhere()
        shown = [
            planned
            for planned in self._plan.steps
            if planned.step.id in visible and not isinstance(planned.step.operation, Metadata)
        ]
        self._labels = labels_of(self._plan, shown)
        self._tell(Planned(tuple(self._labels.items())))
        jobs = self._jobs_for(shown, to_run, goals, whole=whole)
        try:
            carry_out(jobs, self._at_once, self._cancelled)
        finally:
            self._sandbox.forget()
        for lost in self._lost.values():
            raise lost
        return tuple(self._results[step_id] for step_id in goals)

    def _jobs_for(
        self, shown: Sequence[PlannedStep], to_run: Sequence[PlannedStep], goals: Sequence[str], *, whole: bool
    ) -> list[Job]:
        """What is to be done, in the order of the plan; notes hits on the way."""
        missing = {planned.step.id for planned in to_run}
        read = {self._plan.root_of(step_id) for step_id in self._sources(to_run)}
        needed = read.union(self._plan.root_of(step_id) for step_id in goals if whole)
        jobs: list[Job] = []
        pulled: dict[str, str] = {}
        ahead: dict[str, Step] = {}
        if missing:
            from engine.following import following

            found = following(to_run)
            self._after_runs, self._stood_on = found.after_run, found.stood_on
            ahead = dict(found.after_copies)
        for planned in shown:
            step = planned.step
            if step.id in needed and not planned.hit:
                # A base that several stages begin with comes once: the others wait for the first.
                first = pulled.setdefault(self._plan.bases[step.id].digest, step.id)
                jobs.append(Job(step.id, {first} - {step.id}, partial(self._pull, planned, step.id in read)))
            elif step.id in missing:
                if step.parent is not None and (waiting := ahead.pop(step.parent, None)) is not None:
                    jobs.append(self._ahead(step.parent, waiting))
                jobs.append(Job(step.id, self._needs(planned), partial(self._bring, planned)))
            else:
                self._note_hit(planned)
        if whole and (missing or not all(map(self._is_here, goals))):
            jobs += [
                Job(f"layers of {one}", {one, self._plan.root_of(one)}, partial(self._complete, one)) for one in goals
            ]
        return jobs

    def _note_hit(self, planned: PlannedStep) -> None:
        with self._step_span(planned, "hit"):
            self._tell(StepEnded(planned.step.id, self._labels[planned.step.id], Outcome.CACHED))

    def _step_span(self, planned: PlannedStep, outcome: str) -> Span:
        return span(self._labels[planned.step.id], "step", step=planned.step.id, key=planned.key, outcome=outcome)

    def _ahead(self, below: str, step: Step) -> Job:
        """Restores the machine of a command while what is copied for it still comes."""

        def expect(stop: threading.Event) -> None:
            from engine.steps import run

            # What is wrong here is told by the step that needs it.
            with suppress(MbuildError), span("expect", "step", step=below):
                self._supply.bring(self._results[below].layers, stop, self._plan.base_of(below).layers)
                disks = self._layers.disks(self.layers_of(below))
                if step.id not in self._begun and isinstance(step.operation, Run):  # else nobody would take it
                    self._sandbox.expect(run.outlook_of(step.operation, disks, self.provisions), stop)

        return Job(f"ahead of {step.id}", {below, self._plan.root_of(below)}, expect)

    def is_here(self, goals: Sequence[str]) -> bool:
        """Whether all layers of these steps are in the store, and `run` has nothing to do for them."""
        bases = all(self._plan.base_of(goal).is_stored(self._store) for goal in goals)
        return bases and not self._plan.to_run(goals) and all(map(self._is_here, goals))

    def keep_fetched(self) -> None:
        """Keep those results of other caches whose layers are all in the store by now."""
        here: set[Layer] = set()  # each result of a chain has the layers of all those below it
        for planned in self._plan.steps:
            result = self._results.get(planned.step.id)
            if result is None or not self._known.is_carried(planned.key, result):
                continue
            if self._are_here(result.layers, here):
                from engine.carry.recordkeys import content_key

                found = self._known.source_of(planned.key, result)
                content = content_key(planned, self._plan, self._results) or (found and found.entry.content)
                if content:
                    self._store.keep(planned.record, content, result)

    def _are_here(self, layers: Sequence[Layer], here: set[Layer]) -> bool:
        """Whether all of them are in the store; `here` has those that were found there a moment ago."""
        here.update(filter(self._supply.is_here, (layer for layer in layers if layer not in here)))
        return here.issuperset(layers)

    def _is_here(self, step_id: str) -> bool:
        return all(map(self._supply.is_here, self._results[step_id].layers))

    def _complete(self, step_id: str, stop: threading.Event) -> None:
        """Have the layers of a result here that nothing has read."""
        if step_id not in self._lost:
            try:
                with span("complete", "step", step=step_id):
                    self._supply.bring(self._results[step_id].layers, stop)
            except LostLayerError as error:
                self._lost[f"layers of {step_id}"] = error

    def _sources(self, to_run: Sequence[PlannedStep]) -> Iterator[str]:
        """The steps whose files the steps to run read."""
        for planned in to_run:
            yield from (needed for needed in (planned.step.parent, *planned.step.inputs) if needed is not None)

    def _needs(self, planned: PlannedStep) -> frozenset[str]:
        """What must be there before a step can run: the steps it reads, and the bases that they stand on."""
        read = set(self._sources([planned]))
        return frozenset(read | {self._plan.root_of(step_id) for step_id in read})

    def _pull(self, planned: PlannedStep, read: bool, stop: threading.Event) -> None:
        """Bring a base; if steps are going to read it, with what they need for that."""
        step, name = planned.step, self._labels[planned.step.id]
        self._tell(StepStarted(step.id, name))
        begun = time.monotonic()
        try:
            bring = self._layers.bring if read else self._bases.pull_all
            with self._step_span(planned, "pull"):
                bring(self._plan.bases[step.id], stop)
        except MbuildError as error:
            self._fail(step, begun, error)
        self._tell(StepEnded(step.id, name, Outcome.DONE, time.monotonic() - begun))

    def _fail(self, step: Step, begun: float, error: MbuildError) -> NoReturn:
        stopped = isinstance(error, InterruptedBuildError)
        outcome = Outcome.CANCELLED if stopped else Outcome.FAILED
        self._tell(StepEnded(step.id, self._labels[step.id], outcome, time.monotonic() - begun, error.message))
        if isinstance(error, StepError):
            error.step = step.id
        raise located(error, step) from error

    def layers_of(self, step_id: str) -> tuple[Layer, ...]:
        """All layers of a step's file system, its base's first."""
        return self._plan.base_of(step_id).layers + self._results[step_id].layers

    def _bring(self, planned: PlannedStep, stop: threading.Event) -> None:
        """Have a step's result. What cannot be done for want of a layer does not stop what can."""
        self._begun.add(planned.step.id)
        missed = [self._lost[step_id] for step_id in self._sources([planned]) if step_id in self._lost]
        try:
            if missed:
                raise missed[0]
            with self._step_span(planned, "run") as spent:
                self._find_or_make(planned, stop)
                if planned.step.id not in self.run_steps:
                    spent.note(outcome="hit")
        except LostLayerError as error:
            self._lost[planned.step.id] = error

    def _find_or_make(self, planned: PlannedStep, stop: threading.Event) -> None:
        name = self._labels[planned.step.id]

        def waiting() -> None:
            self._tell(Note(f"waiting for another build of {name}"))

        with self._store.lock(f"step {planned.key}", cancelled=stop, waiting=waiting) as waited:
            result = self._found_meanwhile(planned, waited=waited)
            if result is not None:
                self._tell(StepEnded(planned.step.id, name, Outcome.CACHED))
            else:
                result = self._make(planned, name, stop)
            self._results[planned.step.id] = result

    def _found_meanwhile(self, planned: PlannedStep, *, waited: bool) -> StepResult | None:
        """A result that another build made while we waited, or one that an equal file system led to before. Without
        the cache only one that was made since this build began."""
        step = planned.step
        if waited and (made := self._known.made_meanwhile(planned.key)) is not None:
            return made
        if self._known.refused(step):
            return None
        below = self._result_below(planned)
        depth = len(below.steps) + 1
        by_definition = None if planned.dated else self._known.by_definition(step, planned.key, depth)
        if by_definition is not None:
            return by_definition
        key = content_record(planned.record, step, self.layers_of).key()
        result = self._known.on_top_of(below, step, key, map(self._results.get, step.inputs))
        if result is not None and all(map(self._supply.is_here, result.layers)):
            self._store.keep(planned.record, key, result, step.instruction)
        return result

    def _fetch_sources(self, planned: PlannedStep, stop: threading.Event) -> None:
        """Have the layers here that a step reads, where they are in another cache still."""
        for step_id in self._sources([planned]):
            self._supply.bring(self._results[step_id].layers, stop, self._plan.base_of(step_id).layers)

    def _make(self, planned: PlannedStep, name: str, stop: threading.Event) -> StepResult:
        step = planned.step
        try:
            with span("fetch", "step"):
                self._fetch_sources(planned, stop)
        except LostLayerError:
            raise
        except MbuildError as error:
            raise located(error, step) from error
        self._tell(StepStarted(step.id, name))
        begun = time.monotonic()
        try:
            then, stood_on = self._after_runs.get(step.id), step.id in self._stood_on
            added = self._worker.make(step, name, then, stood_on, stop)
            with span("content key", "step"):
                key = content_record(planned.record, step, self.layers_of).key()
                for context, paths in files_read(step, planned.record):
                    for path in paths:
                        self._contexts[context].check(path)
        except MbuildError as error:
            self._fail(step, begun, error)
        seconds = time.monotonic() - begun
        read = map(self._results.get, self._sources([planned]))
        hearsay = any(one is not None and one.hearsay for one in read)
        result = StepResult((*self._result_below(planned).steps, added), round(seconds, 3), time.time(), hearsay)
        with span("keep", "step"):
            self._store.keep(planned.record, key, result, step.instruction)
        self._known.made_now(planned.key)
        self.run_steps.add(step.id)
        self._tell(StepEnded(step.id, name, Outcome.DONE, seconds))
        return result

    def _result_below(self, planned: PlannedStep) -> StepResult:
        return self._results[planned.step.parent] if planned.step.parent is not None else StepResult()
