"""From a request to an image: reads the Machinefile, resolves it, plans, builds, writes the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cache.contexts import ContextDigests, KnownContexts
from cache.results import StepResult
from cache.store import Store
from engine.attest.facts import BuildFacts
from engine.bases import Bases
from engine.carry.carried import CarriedResults
from engine.carry.sources import RemoteCaches
from engine.context import BuildContext, Context
from engine.events import BuildEnded, Note, Observer, WarningRaised
from engine.explain.past import Past, project_of
from engine.images.reference import Reference
from engine.images.source import ImageSource
from engine.layers.entry import NORMAL_TIME
from engine.layerstore import LayerStore
from engine.lookup import CachePolicy, Results
from engine.output.annotations import Annotations
from engine.output.image import BuiltImage, assemble, rfc3339
from engine.output.index import Built, gather, is_whole
from engine.output.spec import OutputSpec, OutputType
from engine.plan import Plan
from engine.platforms import for_each
from engine.prepared import Prepared, plan_all
from engine.remote.contexts import image_names, open_contexts
from engine.remote.remotes import Remotes
from engine.report import BuildReport, ImageReport
from engine.request import BuildRequest
from engine.secrets import SHORTEST
from engine.sshagent import check_agents, open_agents
from engine.steps.provisions import Provisions
from engine.supply import LayerSupply, LostLayerError
from engine.support import check_supported
from machinefile.errors import StoreError, UsageError
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import Pairs
from machinefile.lint.linter import LintResult, resolve_and_lint
from machinefile.options import BuildOptions
from machinefile.resolve import base_references
from machinefile.stages import split_stages
from machinefile.steps import BuildGraph, Snapshot

if TYPE_CHECKING:
    # What runs steps is imported where a build begins: a plan has no use for it.
    from cache.carry.place import CachePlace
    from engine.build import Build
    from engine.cachemounts import CacheRequest
    from engine.carry.export import Exporter, ExportReport, OpenTarget
    from engine.carry.inline import StepKeys
    from engine.carry.sources import OpenTrust
    from engine.carry.spec import CacheSource, CacheTarget
    from engine.debug import Inside, Spot
    from engine.explain.explainer import Explainer
    from engine.explain.explanation import Explanation
    from engine.machines.make import MachineMaker
    from engine.output.outputs import Attest, Push
    from engine.pins import Pins
    from engine.vm.execution import Sandbox

_QUICK = 200
"""Records that a plan looks at for one that is like that of a step, where the file was not built here before."""


class OpenContext(Protocol):
    """Opens a folder as a build context: Context, or what stands for it."""

    def __call__(
        self, root: Path, rules: IgnoreRules, known: ContextDigests | None = None, *, git_modes: bool = False
    ) -> BuildContext:
        """As of Context."""
        ...


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
    versions: Callable[[], Pairs] | None = None
    """What runs steps on this machine, by version."""

    def plan(self, request: BuildRequest) -> Plan:
        """Resolve the Machinefile and every key, and find out what hits, or why not. Starts nothing, pulls no layers,
        writes nothing but what it looked up.

        Raises MachinefileError, UsageError, TransferError.
        """
        with closing(self._caches(request)) as caches:
            return self._foreseen(request, self._prepare(request, caches, refuse=False)).plan

    def explain(self, request: BuildRequest, step: str = "") -> tuple[Plan, tuple[Explanation, ...]]:
        """The plan, and why the steps that have to run miss; or about the step, or the steps of the stage, that is
        named as engine/naming.py has it. Starts nothing, pulls no layers.

        Raises as `plan`, and UsageError: `step-unknown`, `step-ambiguous`.
        """
        from engine.foresee import foreseen
        from engine.naming import steps_named

        with closing(self._caches(request)) as caches:
            prepared = self._prepare(request, caches, refuse=False)
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
        self._check(request)
        with closing(self._caches(request)) as caches:
            prepared = self._prepare(request, caches, refuse=True)
            run: set[str] = set()
            restores = 0
            built: Built | None = None
            attested = ""
            while built is None:
                if request.fail_on_miss:
                    prepared = self._foreseen(request, prepared)
                    _check_misses(prepared.plan)
                plan = prepared.plan
                self._check_secrets(request, plan)
                with self._building(request, prepared) as (build, layers, supply, sandbox):
                    try:
                        results = build.run(whole=request.attest.sbom or not _only_pushed(request, plan))
                        facts = BuildFacts.of(run | build.run_steps, restores + sandbox.starts, self.versions)
                        built, attested = self._finish(request, plan, results, layers, supply, facts)
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
        with suppress(StoreError):
            Past(self.store, project_of(request)).remember(plan, results)

    def _check(self, request: BuildRequest) -> None:
        """Refuse what can be seen to fail before anything is looked up."""
        platforms = tuple(request.for_each_platform())
        request.annotations.check(platforms)
        if request.inline_cache and request.time != NORMAL_TIME:
            raise UsageError(
                "an image with the time of SOURCE_DATE_EPOCH cannot be a cache: its layers are not those that steps "
                "stand on",
                code="cache-unsupported",
                hint="send the cache elsewhere: --cache-to type=registry,ref=NAME, or type=local,dest=PATH",
            )
        if request.attest.key is not None:
            from engine.attest.dsse import AttestationSigner

            AttestationSigner.from_file(request.attest.key)
        if not request.outputs:
            return
        from engine.output.files import check_attested, check_destinations, check_platforms

        if request.attest.wanted:
            check_attested(request.outputs)
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
        from engine.debug import Inside

        with closing(self._caches(request)) as caches:
            prepared: Prepared | None = self._prepare(request, caches, refuse=True)
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

    def _caches(self, request: BuildRequest) -> RemoteCaches:
        """The caches elsewhere that the build may use. An empty store misses everything: they are read at once then,
        else when the first result is missing."""
        open_source = self.open_source
        if request.cache_from and open_source is None:
            raise UsageError("there is nothing here to read other caches with", code="cache-unsupported")
        caches = RemoteCaches(
            request.cache_from if open_source is not None else (),
            open_source or _no_source,
            self.observer,
            self.cancelled,
            open_trust=self.open_trust,
        )
        if request.cache.use and self.store.blobs.is_empty():
            caches.begin()
        return caches

    def _without(self, lost: LostLayerError, prepared: Prepared) -> Prepared:
        """A plan that does not count on a layer of another cache."""
        prepared.carried.lost(lost.layer)
        message = f"a layer of another cache cannot be used, and is made anew: {lost.message}"
        self.observer(WarningRaised(message, lost.code))
        return prepared.replanned(self.store)

    @contextmanager
    def _building(
        self, request: BuildRequest, prepared: Prepared
    ) -> Iterator[tuple[Build, LayerStore, LayerSupply, Sandbox]]:
        from engine.build import Build
        from engine.capacity import BoundedSandbox, Capacity, default_jobs
        from engine.lazysandbox import LazySandbox

        layers = LayerStore(self.store, prepared.bases, guard=request.secrets.guard, cancelled=self.cancelled)
        supply = LayerSupply(self.store, prepared.bases.blobs, layers, prepared.carried, self.cancelled)
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
                supply,
                self.observer,
                self.cancelled,
                results=prepared.results,
                jobs=request.jobs or default_jobs(),
                provisions=Provisions(request.egress, agents, request.secrets, request.step_timeout),
            )
            if request.cache_from:
                build.mounts.seed = partial(self._seed, prepared.carried.caches)
            yield build, layers, supply, sandbox

    def _seed(self, caches: RemoteCaches, wanted: CacheRequest, disk: Path) -> bool:
        """Fill a cache that a RUN mounts and that is empty here."""
        from engine.carry.mounts import MountSeeds

        return MountSeeds(caches.mounts, self.store, self.observer, self.cancelled).seed(wanted, disk)

    def _prepare(self, request: BuildRequest, caches: RemoteCaches, *, refuse: bool) -> Prepared:
        """Everything that is known before a step runs, for all platforms. `refuse` what cannot be carried out."""
        wanted = request.for_each_platform()
        pins: Pins | None = None
        if request.lock is not None:
            from engine.lockcheck import check_lock, pins_of, refuse_unpinned_bases

            pins = pins_of(request)
        bases = Bases(self.store, self.source, self.observer, self.cancelled, image_names(request.contexts), pins)
        if pins is not None and request.locked:
            refuse_unpinned_bases(request, pins, bases.lookup)
        bases.prefetch(one for options in wanted.values() for one in base_references(request.machinefile, options))
        remotes = Remotes(self.store, self.observer, self.cancelled, pins=pins)
        resolved = for_each(wanted.values(), lambda options: self._resolve(request, options, bases))
        self._warn([checked for _, checked in resolved])
        if pins is not None:
            check_lock(request, pins, [graph for graph, _ in resolved], self.observer)
        known = KnownContexts(self.store.root / "contexts", self.store.temporary)
        digests, git_modes = known.of(request.context), request.git_modes
        own = self.open_context(request.context, request.ignore, digests, git_modes=git_modes)
        contexts: dict[str, BuildContext] = {"": own}
        contexts.update(open_contexts(request.contexts, remotes, known, git_modes=git_modes))
        if refuse:
            check_supported([graph for graph, _ in resolved], host_network=request.egress.host_network)
            for graph, _ in resolved:
                check_agents(graph, request.ssh)
        graphs = tuple(
            (platform, request.secrets.versioned(remotes.pinned(graph)))
            for platform, (graph, _) in zip(wanted, resolved, strict=True)
        )
        bases.blobs.add(caches)
        carried = CarriedResults(self.store, caches)
        results = Results(self.store, self._policy(request), carried if request.cache_from else None)
        try:
            plan = plan_all(graphs, bases, contexts, self.store, results)
        finally:
            known.save()
        return Prepared(graphs, plan, bases, contexts, remotes, carried, results)

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

    def _finish(
        self,
        request: BuildRequest,
        plan: Plan,
        results: Sequence[StepResult],
        layers: LayerStore,
        supply: LayerSupply,
        facts: BuildFacts,
    ) -> tuple[Built, str]:
        """Put the images together, and behind an index if there are several; name them and write them out. Gives also
        the digest of the index that has what is said about them, if anything is."""
        annotations = request.annotations.dated(rfc3339(request.time))
        images = [
            assemble(
                graph,
                plan.base_of(graph.result),
                self._stamped(request, result, supply),
                self.store,
                annotations,
                platform,
                self.cancelled,
                _keys_of_image(plan, graph.result, result) if request.inline_cache else (),
                supply,
                request.time,
            )
            for platform, graph, result in zip(plan.platforms, plan.graphs, results, strict=True)
        ]
        built = gather(images, annotations, self.store)
        if request.fail_on_miss:
            self._check_machines(request, plan, images)
        attest = self._attest(request, plan, images, layers, facts, annotations)
        named = attest(built, request.names) if attest is not None else built
        self._keep(request, named, supply)
        self._machines(request, plan, images, layers)
        if attest is not None and len(images) == 1:
            from engine.machines.library import Library

            Library(self.store).share(images[0].digest, named.digest)
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
                supply=supply,
                time=request.time,
                attest=attest,
            )
        return built, "" if attest is None else named.digest

    def _attest(
        self,
        request: BuildRequest,
        plan: Plan,
        images: Sequence[BuiltImage],
        layers: LayerStore,
        facts: BuildFacts,
        annotations: Annotations,
    ) -> Attest | None:
        """What adds the attestations that are wanted, if any are. What a provenance of an image that the store keeps
        would say is remembered in any case: `mbuild attest` may be asked for it."""
        wanted = request.attest
        if not request.names and not wanted.wanted:
            return None
        from engine.attest.provenance import keep_provenance, provenance_of

        for image, graph in zip(images, plan.graphs, strict=True) if request.names else ():
            keep_provenance(self.store, image.digest, request, plan, graph, facts)
        if not wanted.wanted:
            return None
        said = {
            image.manifest.config.digest: provenance_of(request, plan, graph, facts)
            for image, graph in zip(images, plan.graphs, strict=True)
        }
        from engine.attest.make import Attester

        return partial(
            Attester(wanted, self.store, layers, self.cancelled).build, predicates=said, annotations=annotations
        )

    def _stamped(self, request: BuildRequest, result: StepResult, supply: LayerSupply) -> StepResult:
        """The layers with the time that the image is to show."""
        if request.time == NORMAL_TIME:
            return result
        from engine.output.stamped import stamped

        return stamped(result, request.time, self.store, self.cancelled, supply)

    def _keep(self, request: BuildRequest, built: Built, supply: LayerSupply) -> None:
        """Give the image its names in the store, if all of it is there and was checked."""
        layers = [layer for image in built.images for layer in image.layers]
        if is_whole(built, self.store) and supply.all_checked(layers):
            for name in request.names:
                built.keep(name, self.store)
        else:
            self.observer(
                Note("the image is pushed and not kept here: layers of it that nothing needed were not fetched")
            )

    def _machines(self, request: BuildRequest, plan: Plan, images: Sequence[BuiltImage], layers: LayerStore) -> None:
        """Make the machines that SNAPSHOT or an output asks for, and write them where outputs want them."""
        outputs = [output for output in request.outputs if output.type is OutputType.MACHINE]
        for graph, image in _with_machines(request, plan, images):
            from engine.machines.library import write_out

            snapshot = graph.snapshot or Snapshot()
            machine = self._machine_maker().make(image, graph.config, snapshot, graph.shape, layers)
            for output in outputs:
                self.observer(Note(f"writing {output.label}"))
                write_out(machine, output.destination)

    def _check_machines(self, request: BuildRequest, plan: Plan, images: Sequence[BuiltImage]) -> None:
        """Raises MissError (`cache-miss`) for a machine that would have to be made."""
        for graph, image in _with_machines(request, plan, images):
            if not self._machine_maker().has(image, graph.snapshot or Snapshot(), graph.shape):
                from engine.explain.missing import machine_missing

                raise machine_missing()

    def _machine_maker(self) -> MachineMaker:
        if self.machines is None:
            raise UsageError("there is nothing here to make machines with", code="output-unsupported")
        return self.machines()


def _with_machines(
    request: BuildRequest, plan: Plan, images: Sequence[BuiltImage]
) -> Iterator[tuple[BuildGraph, BuiltImage]]:
    """The images that are to be machines too."""
    wanted = any(output.type is OutputType.MACHINE for output in request.outputs)
    for graph, image in zip(plan.graphs, images, strict=True):
        if wanted or graph.snapshot is not None:
            yield graph, image


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


def _keys_of_image(plan: Plan, target: str, whole: StepResult) -> tuple[StepKeys, ...]:
    from engine.carry.imagekeys import keys_of_image

    return keys_of_image(plan, target, whole)


def _no_source(source: CacheSource) -> CachePlace:
    raise AssertionError("no cache is to be opened")


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
