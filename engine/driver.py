"""From a request to an image: reads the Machinefile, resolves it, plans, builds, writes the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cache.results import StepResult
from cache.store import Store
from engine.bases import Bases
from engine.build import Build
from engine.capacity import BoundedSandbox, Capacity, default_jobs
from engine.carry.imagekeys import keys_of_image
from engine.carry.spec import CacheSource, CacheTarget
from engine.context import BuildContext, Context
from engine.debug import Inside, Spot
from engine.events import BuildEnded, Note, Observer, WarningRaised
from engine.images.reference import Reference
from engine.images.source import ImageSource
from engine.joining import join_plans
from engine.layerstore import LayerStore
from engine.lazysandbox import LazySandbox
from engine.lookup import Results
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
from engine.vm.execution import Sandbox
from machinefile.errors import UsageError
from machinefile.lint.linter import LintResult, resolve_and_lint
from machinefile.options import BuildOptions
from machinefile.resolve import base_references
from machinefile.steps import BuildGraph, From, Snapshot

if TYPE_CHECKING:
    from cache.carry.place import CachePlace
    from engine.carry.export import Exporter, ExportReport, OpenTarget, PackedMount
    from engine.machines.make import MachineMaker
    from engine.output.outputs import Push


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
    open_source: Callable[[CacheSource], CachePlace] | None = None
    """Opens what --cache-from names."""
    open_target: Callable[[CacheTarget], OpenTarget] | None = None
    """Opens what --cache-to names, with who signs what goes there."""

    def plan(self, request: BuildRequest) -> Plan:
        """Resolve the Machinefile and every key. Starts nothing, pulls no layers.

        Raises MachinefileError, UsageError, TransferError.
        """
        return self._prepare(request, refuse=False).plan

    def build(self, request: BuildRequest) -> BuildReport:
        """Build, keep the image under its names, write the outputs, send the cache where it is to go.

        Raises MbuildError; what was finished before stays in the store. A cache that could not be sent is no error
        here: the report has it.
        """
        with self._exporter(request) as exporter:
            return self._build(request, exporter)

    def _build(self, request: BuildRequest, exporter: Exporter | None) -> BuildReport:
        begun = time.monotonic()
        self._check(request)
        prepared = self._prepare(request, refuse=True)
        plan = prepared.plan
        self._check_secrets(request, plan)
        with self._building(request, prepared) as (build, layers, sandbox):
            results = build.run()
        built = self._finish(request, plan, results, layers)
        exports = self._export(exporter, prepared, build)
        run = len(build.run_steps)
        seconds = time.monotonic() - begun
        hit = len(plan.counted()) - run
        shown = tuple(Reference.parse(name).short for name in request.names)
        self.observer(BuildEnded(built.digest, shown, hit, run, seconds))
        images = tuple(
            ImageReport(platform, image.digest, image.manifest.config.digest)
            for platform, image in zip(plan.platforms, built.images, strict=True)
        )
        return BuildReport(built.digest, images, hit, run, sandbox.starts, seconds, exports)

    @contextmanager
    def _exporter(self, request: BuildRequest) -> Iterator[Exporter | None]:
        """What sends the cache, opened before anything runs: a key or a package that is not there is told then."""
        if not request.cache_to:
            yield None
            return
        if self.open_target is None:
            raise UsageError("there is nothing here to send a cache with", code="cache-unsupported")
        from engine.carry.export import open_exporter

        with open_exporter(request.cache_to, self.open_target, self.store, self.observer, self.cancelled) as exporter:
            yield exporter

    def _export(self, exporter: Exporter | None, prepared: _Prepared, build: Build) -> ExportReport | None:
        if exporter is None:
            return None
        from engine.carry.mounts import MountPacker
        from engine.carry.outcome import BuildOutcome

        outcome = BuildOutcome(prepared.plan, build.results)
        with MountPacker(self.store, self.cancelled) as packer:

            def disks(target: CacheTarget) -> Sequence[PackedMount]:
                return packer.wanted(target.mounts, prepared.plan, build.mounts.borrowed.values(), self.observer)

            return exporter.export(outcome, prepared.bases.pull, disks)

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
        results = Results(self.store, request.cache)
        plans = for_each(graphs, lambda graph: self._plan(graph, bases, contexts, results))
        return _Prepared(join_plans(list(zip(wanted, plans, strict=True))), bases, contexts, remotes, results)

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
                keys_of_image(plan, graph.result, result) if request.inline_cache else (),
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
