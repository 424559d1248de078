"""From a request to an image: reads the Machinefile, resolves it, plans, builds, writes the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cache.results import StepResult
from cache.store import Store
from engine.bases import Bases
from engine.context import BuildContext, Context
from engine.events import BuildEnded, Note, Observer, WarningRaised
from engine.explain.missing import check_misses
from engine.explain.past import Past, project_of
from engine.images.reference import Reference
from engine.images.source import ImageSource
from engine.joining import join_plans
from engine.layerstore import LayerStore
from engine.lookup import CachePolicy, Results
from engine.output.image import BuiltImage, assemble
from engine.output.index import Built, gather
from engine.output.spec import OutputSpec, OutputType
from engine.plan import Plan, make_plan
from engine.platforms import for_each
from engine.remote.contexts import image_names, open_contexts
from engine.remote.remotes import Remotes
from engine.report import BuildReport, ImageReport
from engine.request import BuildRequest
from engine.secrets import SHORTEST
from engine.sshagent import check_agents, open_agents
from engine.steps.provisions import Provisions
from engine.support import check_supported
from machinefile.errors import StoreError, UsageError
from machinefile.lint.linter import LintResult, resolve_and_lint
from machinefile.options import BuildOptions
from machinefile.resolve import base_references
from machinefile.stages import split_stages
from machinefile.steps import BuildGraph, From, Snapshot

if TYPE_CHECKING:
    # What runs steps is imported where a build begins: a plan has no use for it.
    from engine.build import Build
    from engine.debug import Inside, Spot
    from engine.explain.explainer import Explainer
    from engine.explain.explanation import Explanation
    from engine.explain.sources import RecordSource
    from engine.machines.make import MachineMaker
    from engine.output.outputs import Push
    from engine.vm.execution import Sandbox

_QUICK = 200
"""Records that a plan looks at for one that is like that of a step, where the file was not built here before."""

_LOST = ("blob-corrupt", "blob-missing")
_MOST_LOSSES = 8
"""How often a build is taken up again for a blob that was lost: a disk that fails loses more than that."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A plan, and where what it speaks of can be had."""

    plan: Plan
    bases: Bases
    contexts: Mapping[str, BuildContext]
    remotes: Remotes
    results: Results


@dataclass
class Driver:
    """Carries out requests against one store."""

    store: Store
    source: ImageSource
    sandbox: Callable[[], Sandbox]
    """Makes the sandbox when the first step needs it."""
    observer: Observer
    cancelled: threading.Event = field(default_factory=threading.Event)
    push: Push | None = None
    """Brings an image of the store into registries under names."""
    machines: Callable[[], MachineMaker] | None = None
    """Makes what makes machines, when one is to be made."""
    records: Sequence[RecordSource] = ()
    """Know records of earlier results besides the store, for explaining."""

    def plan(self, request: BuildRequest) -> Plan:
        """Resolve the Machinefile and every key, and find out what hits, or why not. Starts nothing, pulls no layers,
        writes nothing but what it looked up.

        Raises MachinefileError, UsageError, TransferError.
        """
        prepared = self._foreseen(request, self._prepare(request, refuse=False))
        return prepared.plan

    def explain(self, request: BuildRequest, step: str = "") -> tuple[Plan, tuple[Explanation, ...]]:
        """The plan, and why the steps that have to run miss; or about the step, or the steps of the stage, that is
        named as engine/naming.py has it. Starts nothing, pulls no layers.

        Raises as `plan`, and UsageError: `step-unknown`, `step-ambiguous`.
        """
        from engine.foresee import foreseen
        from engine.naming import steps_named

        prepared = self._prepare(request, refuse=False)
        plan = foreseen(prepared.plan, prepared.results)
        steps = steps_named(plan, step) if step else tuple(planned.step.id for planned in plan.to_run())
        return plan, self._explainer(request, plan, prepared.results).explain(steps)

    def build(self, request: BuildRequest) -> BuildReport:
        """Build, keep the image under its names, write the outputs.

        A blob that turns out to be damaged on the way, or that somebody removes meanwhile, is made again.
        Raises MbuildError; what was finished before stays in the store.
        """
        left = _MOST_LOSSES
        while True:
            try:
                return self._build(request)
            except StoreError as error:
                if error.code not in _LOST or not left or any(map(_is_stream, request.outputs)):
                    raise
                self.observer(Note(f"{error.message}: building again what is missing"))
                left -= 1

    def _build(self, request: BuildRequest) -> BuildReport:
        begun = time.monotonic()
        self._check(request)
        prepared = self._prepare(request, refuse=True)
        if request.fail_on_miss:
            prepared = self._foreseen(request, prepared)
            check_misses(prepared.plan)
        plan = prepared.plan
        self._check_secrets(request, plan)
        with self._building(request, prepared) as (build, layers, sandbox):
            try:
                results = build.run()
            finally:
                self._remember(request, plan, build.results)
        built = self._finish(request, plan, results, layers)
        run = len(build.run_steps)
        seconds = time.monotonic() - begun
        hit = len(plan.counted()) - run
        shown = tuple(Reference.parse(name).short for name in request.names)
        self.observer(BuildEnded(built.digest, shown, hit, run, seconds))
        images = tuple(
            ImageReport(platform, image.digest, image.manifest.config.digest)
            for platform, image in zip(plan.platforms, built.images, strict=True)
        )
        return BuildReport(built.digest, images, hit, run, sandbox.starts, seconds)

    def _foreseen(self, request: BuildRequest, prepared: _Prepared) -> _Prepared:
        """The same, with the plan as good as it can be known: which steps an equal file system led to before, why the
        others miss, and how long they took."""
        from engine.foresee import foreseen

        plan = foreseen(prepared.plan, prepared.results)
        quick = self._explainer(request, plan, prepared.results, most=_QUICK)
        return replace(prepared, plan=quick.reasoned())

    def _explainer(self, request: BuildRequest, plan: Plan, results: Results, most: int | None = None) -> Explainer:
        from engine.explain.explainer import Explainer
        from engine.explain.nearest import MOST_RECORDS

        past = Past(self.store, project_of(request))
        return Explainer(plan, self.store, results, past, self.records, MOST_RECORDS if most is None else most)

    def _remember(self, request: BuildRequest, plan: Plan, results: Mapping[str, StepResult]) -> None:
        """For the next time that somebody asks why something misses; a build does not fail for that."""
        with suppress(StoreError):
            Past(self.store, project_of(request)).remember(plan, results)

    def _check(self, request: BuildRequest) -> None:
        """Refuse what can be seen to fail before anything is looked up."""
        platforms = tuple(request.for_each_platform())
        request.annotations.check(platforms)
        if not request.outputs:
            return
        from engine.output.files import check_destinations, check_platforms

        check_platforms(request.outputs, platforms)
        check_destinations(request.outputs)
        _check_names(request.outputs, request.names)
        _check_machines(request.outputs)
        if self.push is None and any(output.push for output in request.outputs):
            raise UsageError("there is nothing here to push with", code="output-unsupported")

    @contextmanager
    def look_inside(self, request: BuildRequest, find: Callable[[Plan], Spot]) -> Iterator[Inside]:
        """Build what a place in the build stands on, and give what it takes to run something there.

        Raises as `build`.
        """
        prepared = self._prepare(request, refuse=True)
        spot = find(prepared.plan)
        with self._building(request, prepared) as (build, layers, sandbox):
            plan = prepared.plan
            pulled = all(plan.base_of(goal).is_stored(self.store) for goal in spot.goals)
            if plan.to_run(spot.goals) or not pulled:
                build.run(spot.goals)
            below = build.layers_of(spot.on)
            yield Inside(spot.run, below, layers, sandbox, build.mounts, build.provisions)

    @contextmanager
    def _building(self, request: BuildRequest, prepared: _Prepared) -> Iterator[tuple[Build, LayerStore, Sandbox]]:
        from engine.build import Build
        from engine.capacity import BoundedSandbox, Capacity, default_jobs
        from engine.lazysandbox import LazySandbox

        layers = LayerStore(self.store, prepared.bases, guard=request.secrets.guard, cancelled=self.cancelled)
        sandbox = BoundedSandbox(LazySandbox(self.sandbox), Capacity.of_host())
        with open_agents(request.ssh, prepared.plan.graphs, self.store.folder) as agents:
            build = Build(
                prepared.plan,
                self.store,
                prepared.bases,
                layers,
                sandbox,
                prepared.contexts,
                prepared.remotes,
                self.observer,
                self.cancelled,
                results=prepared.results,
                jobs=request.jobs or default_jobs(),
                provisions=Provisions(request.egress, agents, request.secrets, request.step_timeout),
            )
            yield build, layers, sandbox

    def _prepare(self, request: BuildRequest, *, refuse: bool) -> _Prepared:
        """Everything that is known before a step runs, for all platforms. `refuse` what cannot be carried out."""
        wanted = request.for_each_platform()
        bases = Bases(self.store, self.source, self.observer, self.cancelled, image_names(request.contexts))
        bases.prefetch(one for options in wanted.values() for one in base_references(request.machinefile, options))
        remotes = Remotes(self.store, self.observer, self.cancelled)
        resolved = for_each(wanted.values(), lambda options: self._resolve(request, options, bases))
        self._warn([checked for _, checked in resolved])
        contexts: dict[str, BuildContext] = {"": Context(request.context, request.ignore)}
        contexts.update(open_contexts(request.contexts, remotes))
        if refuse:
            check_supported([graph for graph, _ in resolved], host_network=request.egress.host_network)
            for graph, _ in resolved:
                check_agents(graph, request.ssh)
        graphs = [remotes.pinned(graph) for graph, _ in resolved]
        results = Results(self.store, self._policy(request))
        plans = for_each(graphs, lambda graph: self._plan(graph, bases, contexts, results))
        return _Prepared(join_plans(list(zip(wanted, plans, strict=True))), bases, contexts, remotes, results)

    def _policy(self, request: BuildRequest) -> CachePolicy:
        """What may be used of earlier results; a stage that is not there is no mistake, as it is none for buildx."""
        policy = request.cache
        if policy.filters:
            policy, unknown = policy.resolved(split_stages(request.machinefile))
            for word in unknown:
                message = f"--no-cache-filter {word}: there is no such stage"
                self.observer(WarningRaised(message, "no-cache-filter-unknown"))
        return policy

    def _resolve(self, request: BuildRequest, options: BuildOptions, bases: Bases) -> tuple[BuildGraph, LintResult]:
        return resolve_and_lint(request.machinefile, options, bases.lookup, request.ignore.prunes)

    def _plan(self, graph: BuildGraph, bases: Bases, contexts: Mapping[str, BuildContext], results: Results) -> Plan:
        by_step = {step.id: bases.get(step.operation.base) for step in graph.steps if isinstance(step.operation, From)}
        return make_plan(graph, by_step, contexts, self.store, results)

    def _check_secrets(self, request: BuildRequest, plan: Plan) -> None:
        secrets = request.secrets
        secrets.check_given(planned.step for planned in plan.to_run())
        places = (request.annotations, *(output.annotations for output in request.outputs))
        annotations = tuple((one.key, one.value) for place in places for one in place.entries)
        for graph in plan.graphs:
            secrets.check_graph(graph, annotations)
        for secret_id in secrets.too_short:
            message = f"the secret {secret_id!r} is shorter than {SHORTEST} bytes: it is not looked for in the result"
            self.observer(WarningRaised(message, "secret-short"))

    def _warn(self, results: Sequence[LintResult]) -> None:
        """Tell what was found, and what several platforms have in common once."""
        found = [finding for checked in results for finding in checked.findings]
        notes = [note for checked in results for note in checked.notes]
        warnings = [WarningRaised(one.message, one.rule.name, str(one.span)) for one in found]
        warnings += (WarningRaised(note.message, note.code, str(note.span or "")) for note in notes)
        for warning in dict.fromkeys(warnings):
            self.observer(warning)

    def _finish(self, request: BuildRequest, plan: Plan, results: Sequence[StepResult], layers: LayerStore) -> Built:
        """Put the images together, and behind an index if there are several; name them and write them out."""
        images = [
            assemble(
                graph,
                plan.base_of(graph.result),
                result,
                self.store,
                request.annotations,
                platform,
                self.cancelled,
            )
            for platform, graph, result in zip(plan.platforms, plan.graphs, results, strict=True)
        ]
        built = gather(images, request.annotations, self.store)
        for name in request.names:
            built.keep(name, self.store)
        self._machines(request, plan, images, layers)
        outputs = tuple(output for output in request.outputs if output.type is not OutputType.MACHINE)
        if outputs:
            from engine.output.outputs import write_outputs  # with every writer, which most builds have no use for

            write_outputs(
                outputs,
                built,
                request.names,
                self.store,
                layers,
                self.observer,
                cancelled=self.cancelled,
                push=self.push,
            )
        return built

    def _machines(self, request: BuildRequest, plan: Plan, images: Sequence[BuiltImage], layers: LayerStore) -> None:
        """Make the machines that SNAPSHOT or an output asks for, and write them where outputs want them."""
        outputs = [output for output in request.outputs if output.type is OutputType.MACHINE]
        for graph, image in zip(plan.graphs, images, strict=True):
            if graph.snapshot is None and not outputs:
                continue
            if self.machines is None:
                raise UsageError("there is nothing here to make machines with", code="output-unsupported")
            from engine.machines.library import write_out

            machine = self.machines().make(image, graph.config, graph.snapshot or Snapshot(), graph.shape, layers)
            for output in outputs:
                self.observer(Note(f"writing {output.label}"))
                write_out(machine, output.destination)


def _is_stream(output: OutputSpec) -> bool:
    """Whether what was written to it cannot be taken back: standard output, a pipe, a device."""
    there = output.destination
    return output.to_stdout or (there.exists() and not there.is_file() and not there.is_dir())


def _check_names(outputs: tuple[OutputSpec, ...], names: tuple[str, ...]) -> None:
    if not names and any(output.type is OutputType.IMAGE and not output.names for output in outputs):
        raise UsageError(
            "-o type=image, as --push, is for an image with a name, and it has none",
            code="output-nameless",
            hint="name it with -t NAME or name=NAME",
        )


def _check_machines(outputs: tuple[OutputSpec, ...]) -> None:
    for output in outputs:
        if output.type is OutputType.MACHINE:
            from engine.machines.library import check_destination

            check_destination(output.destination)
