"""Carrying out a plan: the steps whose results are missing, each after what it needs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from cache.index import Kind
from cache.results import Layer, StepResult
from cache.store import Store
from engine.bases import Bases
from engine.context import ContextFiles
from engine.events import Note, Observer, Outcome, Planned, StepEnded, StepOutput, StepStarted
from engine.labels import labels_of
from engine.layerstore import LayerStore
from engine.plan import Plan, PlannedStep, content_identity, located
from engine.records import record_of
from engine.remote.remotes import Remotes
from engine.steps import local, remote, run, workdir
from engine.vm.execution import Sandbox
from machinefile.errors import InterruptedBuildError, MbuildError
from machinefile.steps import Copy, From, FromContext, FromStep, Metadata, RemoteSource, Run, Step, Workdir


class Build:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        bases: Bases,
        layers: LayerStore,
        sandbox: Sandbox,
        contexts: Mapping[str, ContextFiles],
        remotes: Remotes,
        observer: Observer,
        cancelled: threading.Event,
        *,
        use_cache: bool = True,
    ) -> None:
        self._plan = plan
        self._store = store
        self._bases = bases
        self._layers = layers
        self._sandbox = sandbox
        self._contexts = contexts
        self._remotes = remotes
        self._tell = observer
        self._cancelled = cancelled
        self._use_cache = use_cache
        self._results = {
            planned.step.id: planned.result or StepResult()
            for planned in plan.steps
            if planned.result is not None or isinstance(planned.step.operation, From)
        }
        self._labels: dict[str, str] = {}
        self.run_steps: set[str] = set()
        """The ids of the steps that ran: neither the plan nor their content key had a result for them."""

    def run(self) -> tuple[StepResult, ...]:
        """Bring every missing result into the store and give the target's, one a platform.

        Raises StepError, HostError, TransferError, or InterruptedBuildError soon after `cancelled` is set.
        """
        to_run = self._plan.to_run()
        missing = {planned.step.id for planned in to_run}
        shown = [planned for planned in self._plan.steps if not isinstance(planned.step.operation, Metadata)]
        self._labels = labels_of(self._plan, shown)
        self._tell(Planned(tuple(self._labels.items())))
        read = {self._plan.root_of(step_id) for step_id in self._sources(to_run)}
        needed = read.union(self._plan.root_of(step_id) for step_id in self._plan.results)
        for planned in shown:
            if planned.step.id in needed and not planned.hit:
                self._pull(planned, read=planned.step.id in read)
            elif planned.step.id not in missing:
                self._tell(StepEnded(planned.step.id, self._labels[planned.step.id], Outcome.CACHED))
        for planned in to_run:
            self._results[planned.step.id] = self._bring(planned)
        return tuple(self._results[step_id] for step_id in self._plan.results)

    def _sources(self, to_run: Sequence[PlannedStep]) -> Iterator[str]:
        """The steps whose files the steps to run read."""
        for planned in to_run:
            yield from (needed for needed in (planned.step.parent, *planned.step.inputs) if needed is not None)

    def _pull(self, planned: PlannedStep, *, read: bool) -> None:
        """Bring a base; if steps are going to read it, with what they need for that."""
        step, name = planned.step, self._labels[planned.step.id]
        self._tell(StepStarted(step.id, name))
        begun = time.monotonic()
        try:
            bring = self._layers.bring if read else self._bases.pull_all
            bring(self._plan.bases[step.id])
        except MbuildError as error:
            self._fail(step, begun, error)
        self._tell(StepEnded(step.id, name, Outcome.DONE, time.monotonic() - begun))

    def _fail(self, step: Step, begun: float, error: MbuildError) -> NoReturn:
        stopped = isinstance(error, InterruptedBuildError)
        outcome = Outcome.CANCELLED if stopped else Outcome.FAILED
        self._tell(StepEnded(step.id, self._labels[step.id], outcome, time.monotonic() - begun, error.message))
        raise located(error, step) from error

    def layers_of(self, step_id: str) -> tuple[Layer, ...]:
        """All layers of a step's file system, its base's first."""
        return self._plan.base_of(step_id).layers + self._results[step_id].layers

    def _bring(self, planned: PlannedStep) -> StepResult:
        if self._cancelled.is_set():
            raise InterruptedBuildError
        name = self._labels[planned.step.id]

        def waiting() -> None:
            self._tell(Note(f"waiting for another mbuild that builds {name}"))

        with self._store.lock(f"step {planned.key}", cancelled=self._cancelled, waiting=waiting) as waited:
            found = self._found_meanwhile(planned, waited=waited)
            if found is not None:
                self._tell(StepEnded(planned.step.id, name, Outcome.CACHED))
                return found
            return self._make(planned, name)

    def _found_meanwhile(self, planned: PlannedStep, *, waited: bool) -> StepResult | None:
        """A result that another build made while we waited, or one that an equal file system led to before."""
        if not self._use_cache and not waited:
            return None
        by_definition = self._store.result(Kind.RESULT, planned.key)
        if by_definition is not None:
            return by_definition
        key = self._content_key(planned)
        by_content = self._store.result(Kind.CONTENT, key) if self._use_cache else None
        if by_content is None:
            return None
        below = self._result_below(planned)
        result = StepResult((*below.steps, by_content.steps[-1]), by_content.seconds, by_content.created)
        self._store.keep(planned.record, key, result)
        return result

    def _make(self, planned: PlannedStep, name: str) -> StepResult:
        step = planned.step
        self._tell(StepStarted(step.id, name))
        begun = time.monotonic()
        try:
            added = self._execute(planned)
        except MbuildError as error:
            self._fail(step, begun, error)
        seconds = time.monotonic() - begun
        result = StepResult((*self._result_below(planned).steps, added), round(seconds, 3), time.time())
        self._store.keep(planned.record, self._content_key(planned), result)
        self.run_steps.add(step.id)
        self._tell(StepEnded(step.id, name, Outcome.DONE, seconds))
        return result

    def _execute(self, planned: PlannedStep) -> Layer | None:
        step = planned.step
        below = self.layers_of(step.parent) if step.parent is not None else ()
        match step.operation:
            case Run() as operation:
                return run.run_step(
                    operation,
                    below,
                    self._layers,
                    self._sandbox,
                    lambda stream, data: self._tell(StepOutput(step.id, stream, data)),
                    self._cancelled,
                )
            case Copy() as operation:
                match operation.origin:
                    case FromStep(other):
                        return local.copy_from_layers(operation, self.layers_of(other), below, self._layers, other)
                    case FromContext(name):
                        return local.copy_from_context(operation, self._contexts[name], below, self._layers)
                    case _:
                        return local.copy_inline(operation, below, self._layers)
            case RemoteSource() as operation:
                return remote.add_remote(operation, below, self._layers, self._remotes)
            case Workdir() as operation:
                return workdir.make_workdir(operation, below, self._layers)
            case other:
                raise AssertionError(f"{type(other).__name__} is not carried out")

    def _result_below(self, planned: PlannedStep) -> StepResult:
        return self._results[planned.step.parent] if planned.step.parent is not None else StepResult()

    def _content_key(self, planned: PlannedStep) -> str:
        def identity(step_id: str) -> str:
            return content_identity(self.layers_of(step_id))

        return record_of(planned.step, planned.platform, identity, self._contexts).key()
