"""From a request to an image: reads the Machinefile, resolves it, plans, builds, writes the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from cache.names import NamedImage
from cache.results import StepResult
from cache.store import Store
from engine.bases import Base, Bases
from engine.build import Build
from engine.context import Context
from engine.events import BuildEnded, Note, Observer, WarningRaised
from engine.images.reference import Reference
from engine.images.source import ImageSource
from engine.layerstore import LayerStore
from engine.output.image import BuiltImage, assemble, rfc3339
from engine.output.layout import write_layout
from engine.output.spec import OutputSpec
from engine.plan import Plan, make_plan
from engine.support import check_supported
from engine.vm.execution import Execution, Output, Result, Sandbox
from machinefile.ignore import IgnoreRules
from machinefile.instructions import Machinefile
from machinefile.options import BuildOptions
from machinefile.resolve import resolve
from machinefile.steps import BuildGraph, From


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


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What came of it."""

    digest: str
    config_digest: str
    hit: int
    """Steps whose results were there."""
    run: int
    """Steps that ran."""
    restores: int
    """MicroVMs that were started."""
    seconds: float

    @property
    def total(self) -> int:
        """All steps that make a file system."""
        return self.hit + self.run


@dataclass
class Driver:
    """Carries out requests against one store."""

    store: Store
    source: ImageSource
    sandbox: Callable[[], Sandbox]
    """Makes the sandbox when the first step needs it."""
    observer: Observer
    cancelled: threading.Event = field(default_factory=threading.Event)

    def plan(self, request: BuildRequest) -> Plan:
        """Resolve the Machinefile and every key. Starts nothing, pulls no layers.

        Raises MachinefileError, UsageError, TransferError.
        """
        return self._prepare(request)[0]

    def build(self, request: BuildRequest) -> BuildReport:
        """Build, keep the image under its names, write the outputs.

        Raises MbuildError; what was finished before stays in the store.
        """
        begun = time.monotonic()
        plan, bases, contexts = self._prepare(request)
        layers = LayerStore(self.store, bases)
        sandbox = _Lazy(self.sandbox)
        build = Build(
            plan,
            self.store,
            bases,
            layers,
            sandbox,
            contexts,
            self.observer,
            self.cancelled,
            use_cache=request.use_cache,
        )
        result = build.run()
        base = plan.base_of(plan.graph.result)
        image = self._finish(request, plan.graph, base, result)
        run = len(build.run_steps)
        seconds = time.monotonic() - begun
        hit = len(plan.counted()) - run
        shown = tuple(Reference.parse(name).short for name in request.names)
        self.observer(BuildEnded(image.digest, shown, hit, run, seconds))
        return BuildReport(image.digest, image.manifest.config.digest, hit, run, sandbox.starts, seconds)

    def _prepare(self, request: BuildRequest) -> tuple[Plan, Bases, Mapping[str, Context]]:
        bases = Bases(self.store, self.source, self.observer, self.cancelled)
        graph = resolve(request.machinefile, request.options, bases.lookup)
        for warning in graph.warnings:
            self.observer(WarningRaised(warning.message, warning.code, str(warning.span or "")))
        contexts = {"": Context(request.context, request.ignore)}
        check_supported(graph, frozenset(contexts))
        by_step = {step.id: bases.get(step.operation.base) for step in graph.steps if isinstance(step.operation, From)}
        return make_plan(graph, by_step, contexts, self.store, use_cache=request.use_cache), bases, contexts

    def _finish(self, request: BuildRequest, graph: BuildGraph, base: Base, result: StepResult) -> BuiltImage:
        image = assemble(graph, base, result, self.store)
        for name in request.names:
            media_type = image.manifest.media_type
            self.store.names.put(NamedImage(name, image.digest, image.size, media_type, rfc3339(time.time())))
        for output in request.outputs:
            self.observer(Note(f"writing {output.destination}"))
            write_layout(image, request.names, output, self.store)
        return image


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
