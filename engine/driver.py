"""From a request to an image: reads the Machinefile, resolves it, plans, builds, writes the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cache.results import StepResult
from cache.store import Store
from engine.bases import Bases
from engine.build import Build
from engine.context import Context, ContextFiles
from engine.events import BuildEnded, Observer, WarningRaised
from engine.images.reference import Reference
from engine.images.source import ImageSource
from engine.joining import join_plans
from engine.layerstore import LayerStore
from engine.output.annotations import NO_ANNOTATIONS, Annotations
from engine.output.image import assemble
from engine.output.index import Built, gather
from engine.output.spec import OutputSpec
from engine.plan import Plan, make_plan
from engine.platforms import for_each
from engine.remote.contexts import NamedContext, image_names, open_contexts
from engine.remote.remotes import Remotes
from engine.support import check_supported
from engine.vm.execution import Execution, Output, Result, Sandbox
from machinefile.errors import UsageError
from machinefile.ignore import IgnoreRules
from machinefile.instructions import Machinefile
from machinefile.lint.linter import LintResult, resolve_and_lint
from machinefile.options import BuildOptions
from machinefile.platform import Platform
from machinefile.resolve import base_references
from machinefile.steps import BuildGraph, From

if TYPE_CHECKING:
    from engine.output.outputs import Push


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What the user asked for."""

    machinefile: Machinefile
    context: Path
    ignore: IgnoreRules
    options: BuildOptions
    names: tuple[str, ...] = ()
    """-t, canonical."""
    outputs: tuple[OutputSpec, ...] = ()
    use_cache: bool = True
    annotations: Annotations = NO_ANNOTATIONS
    """--annotation."""
    contexts: tuple[NamedContext, ...] = ()
    """--build-context; `options` has their names."""
    platforms: tuple[Platform, ...] = ()
    """--platform with several, each once: an image for each, and an index of them. Empty for that of `options`."""

    def for_each_platform(self) -> dict[Platform, BuildOptions]:
        """The options of the build for each platform, in the order that was asked for."""
        wanted = self.platforms or (self.options.platform,)
        return {platform: replace(self.options, platform=platform) for platform in wanted}


@dataclass(frozen=True, slots=True)
class ImageReport:
    """One image that came of it."""

    platform: Platform
    """What it was asked for."""
    digest: str
    config_digest: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What came of it."""

    digest: str
    """Of the manifest, or, for several platforms, of the index."""
    images: tuple[ImageReport, ...]
    """One a platform, in the order that was asked for."""
    hit: int
    """Steps whose results were there."""
    run: int
    """Steps that ran."""
    restores: int
    """MicroVMs that were started."""
    seconds: float

    @property
    def config_digest(self) -> str:
        """Of the image's configuration; empty for an index, which has none."""
        return self.images[0].config_digest if len(self.images) == 1 else ""

    @property
    def total(self) -> int:
        """All steps that make a file system."""
        return self.hit + self.run


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A plan, and where what it speaks of can be had."""

    plan: Plan
    bases: Bases
    contexts: Mapping[str, ContextFiles]
    remotes: Remotes


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

    def plan(self, request: BuildRequest) -> Plan:
        """Resolve the Machinefile and every key. Starts nothing, pulls no layers.

        Raises MachinefileError, UsageError, TransferError.
        """
        return self._prepare(request, refuse=False).plan

    def build(self, request: BuildRequest) -> BuildReport:
        """Build, keep the image under its names, write the outputs.

        Raises MbuildError; what was finished before stays in the store.
        """
        begun = time.monotonic()
        self._check(request)
        prepared = self._prepare(request, refuse=True)
        plan = prepared.plan
        layers = LayerStore(self.store, prepared.bases)
        sandbox = _Lazy(self.sandbox)
        build = Build(
            plan,
            self.store,
            prepared.bases,
            layers,
            sandbox,
            prepared.contexts,
            prepared.remotes,
            self.observer,
            self.cancelled,
            use_cache=request.use_cache,
        )
        built = self._finish(request, plan, build.run(), layers)
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

    def _check(self, request: BuildRequest) -> None:
        """Refuse what can be seen to fail before anything is looked up."""
        platforms = tuple(request.for_each_platform())
        request.annotations.check(platforms)
        if not request.outputs:
            return
        from engine.output.files import check_destinations, check_platforms

        check_platforms(request.outputs, platforms)
        check_destinations(request.outputs)
        if self.push is None and any(output.push for output in request.outputs):
            raise UsageError("there is nothing here to push with", code="output-unsupported")

    def _prepare(self, request: BuildRequest, *, refuse: bool) -> _Prepared:
        """Everything that is known before a step runs, for all platforms. `refuse` what cannot be carried out."""
        wanted = request.for_each_platform()
        bases = Bases(self.store, self.source, self.observer, self.cancelled, image_names(request.contexts))
        bases.prefetch(one for options in wanted.values() for one in base_references(request.machinefile, options))
        remotes = Remotes(self.store, self.observer, self.cancelled)
        resolved = for_each(wanted.values(), lambda options: self._resolve(request, options, bases))
        self._warn([checked for _, checked in resolved])
        contexts: dict[str, ContextFiles] = {"": Context(request.context, request.ignore)}
        contexts.update(open_contexts(request.contexts, remotes))
        if refuse:
            check_supported([graph for graph, _ in resolved])
        graphs = [remotes.pinned(graph) for graph, _ in resolved]
        plans = for_each(graphs, lambda graph: self._plan(request, graph, bases, contexts))
        return _Prepared(join_plans(list(zip(wanted, plans, strict=True))), bases, contexts, remotes)

    def _resolve(self, request: BuildRequest, options: BuildOptions, bases: Bases) -> tuple[BuildGraph, LintResult]:
        return resolve_and_lint(request.machinefile, options, bases.lookup, request.ignore.prunes)

    def _plan(
        self, request: BuildRequest, graph: BuildGraph, bases: Bases, contexts: Mapping[str, ContextFiles]
    ) -> Plan:
        by_step = {step.id: bases.get(step.operation.base) for step in graph.steps if isinstance(step.operation, From)}
        return make_plan(graph, by_step, contexts, self.store, use_cache=request.use_cache)

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
            assemble(graph, plan.base_of(graph.result), result, self.store, request.annotations, platform)
            for platform, graph, result in zip(plan.platforms, plan.graphs, results, strict=True)
        ]
        built = gather(images, request.annotations, self.store)
        for name in request.names:
            built.keep(name, self.store)
        if request.outputs:
            from engine.output.outputs import write_outputs  # with every writer, which most builds have no use for

            write_outputs(
                request.outputs,
                built,
                request.names,
                self.store,
                layers,
                self.observer,
                cancelled=self.cancelled,
                push=self.push,
            )
        return built


class _Lazy:
    """A sandbox that is made when it is first used."""

    def __init__(self, make: Callable[[], Sandbox]) -> None:
        self._make = make
        self._made: Sandbox | None = None

    def execute(
        self, execution: Execution, output: Output, cancelled: threading.Event
    ) -> AbstractContextManager[Result]:
        if self._made is None:
            self._made = self._make()
        return self._made.execute(execution, output, cancelled)

    @property
    def starts(self) -> int:
        return self._made.starts if self._made is not None else 0
