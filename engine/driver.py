"""From a request to an image: reads the Machinefile, resolves it, plans, builds, writes the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cache.results import StepResult
from cache.spans import span
from cache.store import Store
from engine.attest.facts import BuildFacts
from engine.carry.sources import RemoteCaches
from engine.checks import check_request, check_secrets
from engine.context import Context
from engine.events import BuildEnded, Note, Observer, WarningRaised
from engine.explain.past import Past, project_of
from engine.finishing import Finisher
from engine.forerunner import Forerunner
from engine.images.reference import Reference
from engine.images.source import ImageSource
from engine.layers.times import KEPT, NORMAL
from engine.layerstore import LayerStore
from engine.output.index import Built
from engine.output.spec import OutputSpec
from engine.plan import Plan
from engine.prepared import Prepared
from engine.preparing import OpenContext, Preparer
from engine.report import BuildReport, ImageReport
from engine.request import BuildRequest
from engine.sshagent import open_agents
from engine.steps.provisions import Provisions
from engine.supply import LayerSupply, LostLayerError
from machinefile.errors import StoreError, UsageError
from machinefile.imageconfig import Pairs
from machinefile.values import dataclass

if TYPE_CHECKING:
    # What runs steps is imported where a build begins: a plan has no use for it.
    from cache.carry.place import CachePlace
    from engine.build import Build
    from engine.cachemounts import CacheRequest
    from engine.carry.export import Exporter, ExportReport, OpenTarget
    from engine.carry.sources import OpenTrust
    from engine.carry.spec import CacheSource, CacheTarget
    from engine.debug import Inside, Spot
    from engine.explain.explainer import Explainer
    from engine.explain.explanation import Explanation
    from engine.machines.make import MachineMaker
    from engine.output.outputs import Push
    from engine.vm.execution import Sandbox

_QUICK = 200
"""Records that a plan looks at for one that is like that of a step, where the file was not built here before."""


_LOST = ("blob-corrupt", "blob-missing")
_MOST_LOSSES = 8
"""How often a build is taken up again for a blob that was lost: a disk that fails loses more than that."""


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
    """Opens a cache to be read."""
    open_trust: OpenTrust | None = None
    """Reads the keys that a cache's entries must be signed with."""
    open_target: Callable[[CacheTarget], OpenTarget] | None = None
    """Opens what --cache-to names, with who signs what goes there."""
    open_context: OpenContext = Context
    """Opens the folder that is the build context."""
    finished: Callable[[Plan, Mapping[str, StepResult]], None] | None = None
    """Is told what the steps of a build came to, when it is done."""
    clock_shift: int = 0
    """Seconds that the times of what is made, where they are kept, are ahead of this machine's."""
    versions: Callable[[], Pairs] | None = None
    """What runs steps on this machine, by version."""

    def plan(self, request: BuildRequest) -> Plan:
        """Resolve the Machinefile and every key, and find out what hits, or why not. Starts nothing, pulls no layers,
        writes nothing but what it looked up.

        Raises MachinefileError, UsageError, TransferError.
        """
        with closing(self._preparer.caches(request)) as caches:
            return self._foreseen(request, self._preparer.prepare(request, caches, refuse=False)).plan

    def explain(self, request: BuildRequest, step: str = "") -> tuple[Plan, tuple[Explanation, ...]]:
        """The plan, and why the steps that have to run miss; or about the step, or the steps of the stage, that is
        named as engine/naming.py has it. Starts nothing, pulls no layers.

        Raises as `plan`, and UsageError: `step-unknown`, `step-ambiguous`.
        """
        from engine.foresee import foreseen
        from engine.naming import steps_named

        with closing(self._preparer.caches(request)) as caches:
            prepared = self._preparer.prepare(request, caches, refuse=False)
            plan = foreseen(prepared.plan, prepared.results)
            steps = steps_named(plan, step) if step else tuple(planned.step.id for planned in plan.to_run())
            return plan, self._explainer(request, plan, prepared).explain(steps)

    def build(self, request: BuildRequest) -> BuildReport:
        """Build, keep the image under its names, write the outputs, send the cache where it is to go.

        A blob that turns out to be damaged on the way, or that somebody removes meanwhile, is made again.
        Raises MbuildError; what was finished before stays in the store. A cache that could not be sent is no error
        here: the report has it.
        """
        left = _MOST_LOSSES
        if request.epoch is not None and request.epoch.note:
            self.observer(Note(request.epoch.note))
        with self._exporter(request) as exporter:
            while True:
                try:
                    return self._build(request, exporter)
                except StoreError as error:
                    if error.code not in _LOST or not left or any(map(_is_stream, request.outputs)):
                        raise
                    self.observer(Note(f"{error.message}: building again what is missing"))
                    left -= 1

    def _build(self, request: BuildRequest, exporter: Exporter | None) -> BuildReport:
        begun = time.monotonic()
        check_request(request, can_push=self.push is not None)
        forerunner = Forerunner(self.sandbox, self.store, request, self.cancelled)
        with closing(self._preparer.caches(request)) as caches, forerunner.ahead() as sandboxes:
            prepared = self._preparer.prepare(request, caches, refuse=True)
            run: set[str] = set()
            restores = 0
            built: Built | None = None
            attested = ""
            while built is None:
                if request.fail_on_miss:
                    prepared = self._foreseen(request, prepared)
                    _check_misses(prepared.plan)
                plan = prepared.plan
                check_secrets(request, plan, self.observer)
                with self._building(request, prepared, sandboxes) as (build, layers, supply, sandbox):
                    try:
                        with span("steps", "phase"):
                            results = build.run(whole=request.attest.sbom or not _only_pushed(request, plan))
                        ran, started = run | build.run_steps, restores + sandbox.starts
                        facts = BuildFacts.of(ran, started, self.versions, prepared.remotes.known)
                        with span("finish", "phase"):
                            built, attested = self._finisher.finish(
                                request, plan, results, layers, supply, facts, build.results
                            )
                            build.keep_fetched()
                    except LostLayerError as lost:
                        prepared = self._without(lost, prepared)
                    finally:
                        self._remember(request, plan, build.results)
                    run |= build.run_steps
                    restores += sandbox.starts
            exports = self._export(exporter, prepared.plan, build, supply)
            imported = sum(
                prepared.results.is_carried(planned.key, build.results[planned.step.id])
                for planned in prepared.plan.counted()
                if planned.step.id in build.results and planned.step.id not in run
            )
        if self.finished is not None:
            self.finished(plan, build.results)
        seconds = time.monotonic() - begun
        hit = len(plan.counted()) - len(run)
        shown = tuple(Reference.parse(name).short for name in request.names)
        self.observer(BuildEnded(built.digest, shown, hit, len(run), seconds))
        images = tuple(
            ImageReport(platform, image.digest, image.manifest.config.digest)
            for platform, image in zip(plan.platforms, built.images, strict=True)
        )
        return BuildReport(built.digest, images, hit, len(run), restores, seconds, exports, imported, attested)

    @property
    def _preparer(self) -> Preparer:
        return Preparer(
            self.store,
            self.source,
            self.observer,
            self.cancelled,
            self.open_source,
            self.open_trust,
            self.open_context,
        )

    @property
    def _finisher(self) -> Finisher:
        return Finisher(self.store, self.observer, self.cancelled, self.push, self.machines, self.clock_shift)

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

    def _export(self, exporter: Exporter | None, plan: Plan, build: Build, supply: LayerSupply) -> ExportReport | None:
        if exporter is None:
            return None
        from engine.carry.mounts import MountPacker
        from engine.carry.outcome import BuildOutcome

        with MountPacker(self.store, self.observer, self.cancelled) as packer:
            disks = partial(packer.wanted, plan, build.mounts.borrowed)
            return exporter.export(BuildOutcome(plan, build.results), supply, disks)

    def _foreseen(self, request: BuildRequest, prepared: Prepared) -> Prepared:
        """The same, with the plan as good as it can be known: which steps an equal file system led to before, why the
        others miss, and how long they took."""
        from engine.foresee import foreseen

        with span("foresee", "phase"):
            plan = foreseen(prepared.plan, prepared.results)
            quick = self._explainer(request, plan, prepared, most=_QUICK)
            return replace(prepared, plan=quick.reasoned())

    def _explainer(self, request: BuildRequest, plan: Plan, prepared: Prepared, most: int | None = None) -> Explainer:
        from engine.carry.carriedrecords import CarriedRecords
        from engine.explain.explainer import Explainer
        from engine.explain.nearest import MOST_RECORDS

        past = Past(self.store, project_of(request))
        elsewhere = [CarriedRecords(*place, self.observer) for place in prepared.carried.caches.places()]
        most = MOST_RECORDS if most is None else most
        return Explainer(plan, self.store, prepared.results, past, elsewhere, most)

    def _remember(self, request: BuildRequest, plan: Plan, results: Mapping[str, StepResult]) -> None:
        """For the next time that somebody asks why something misses; a build does not fail for that."""
        with suppress(StoreError), span("remember", "phase"):
            Past(self.store, project_of(request)).remember(plan, results)

    @contextmanager
    def look_inside(self, request: BuildRequest, find: Callable[[Plan], Spot]) -> Iterator[Inside]:
        """Build what a place in the build stands on, and give what it takes to run something there.

        Raises as `build`.
        """
        from engine.debug import Inside

        with closing(self._preparer.caches(request)) as caches:
            prepared: Prepared | None = self._preparer.prepare(request, caches, refuse=True)
            while prepared is not None:
                spot = find(prepared.plan)
                with self._building(request, prepared) as (build, layers, _, sandbox):
                    try:
                        if not build.is_here(spot.goals):
                            build.run(spot.goals)
                            build.keep_fetched()
                        below = build.layers_of(spot.on)
                    except LostLayerError as lost:
                        prepared = self._without(lost, prepared)
                        continue
                    prepared = None
                    yield Inside(spot.run, below, layers, sandbox, build.mounts, build.provisions)

    def _without(self, lost: LostLayerError, prepared: Prepared) -> Prepared:
        """A plan that does not count on a layer of another cache."""
        prepared.carried.lost(lost.layer)
        message = f"a layer of another cache cannot be used, and is made anew: {lost.message}"
        self.observer(WarningRaised(message, lost.code))
        return prepared.replanned(self.store)

    @contextmanager
    def _building(
        self, request: BuildRequest, prepared: Prepared, sandboxes: Callable[[], Sandbox] | None = None
    ) -> Iterator[tuple[Build, LayerStore, LayerSupply, Sandbox]]:
        with span("import", "phase"):
            from engine.build import Build
            from engine.capacity import BoundedSandbox, Capacity, default_jobs
            from engine.outersandbox import LazySandbox

        layers = LayerStore(
            self.store,
            prepared.bases,
            guard=request.secrets.guard,
            cancelled=self.cancelled,
            times=replace(KEPT, ahead=self.clock_shift) if request.keep_times else NORMAL,
        )
        supply = LayerSupply(self.store, prepared.bases.blobs, layers, prepared.carried, self.cancelled)
        sandbox = BoundedSandbox(LazySandbox(sandboxes or self.sandbox), Capacity.of_host())
        with open_agents(request.ssh, prepared.plan.graphs, self.store.folder) as agents:
            build = Build(
                prepared.plan,
                self.store,
                prepared.bases,
                layers,
                sandbox,
                prepared.contexts,
                prepared.remotes,
                supply,
                self.observer,
                self.cancelled,
                results=prepared.results,
                jobs=request.jobs or default_jobs(),
                provisions=Provisions(
                    request.egress, agents, request.secrets, request.step_timeout, request.keep_times
                ),
            )
            if request.cache_from:
                build.mounts.seed = partial(self._seed, prepared.carried.caches)
            yield build, layers, supply, sandbox

    def _seed(self, caches: RemoteCaches, wanted: CacheRequest, disk: Path) -> bool:
        """Fill a cache that a RUN mounts and that is empty here."""
        from engine.carry.mounts import MountSeeds

        return MountSeeds(caches.mounts, self.store, self.observer, self.cancelled).seed(wanted, disk)


def _only_pushed(request: BuildRequest, plan: Plan) -> bool:
    """Whether nothing but registries is to have the image: they may have most of it already."""
    machines = any(graph.snapshot is not None for graph in plan.graphs)
    return bool(request.outputs) and all(output.push for output in request.outputs) and not machines


def _is_stream(output: OutputSpec) -> bool:
    """Whether what was written to it cannot be taken back: standard output, a pipe, a device."""
    there = output.destination
    return output.to_stdout or (there.exists() and not there.is_file() and not there.is_dir())


def _check_misses(plan: Plan) -> None:
    from engine.explain.missing import check_misses

    check_misses(plan)
