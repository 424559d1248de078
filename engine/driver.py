"""From a request to an image: reads the Machinefile, resolves it, plans, builds, writes the outputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cache.results import StepResult
from cache.store import Store
from engine.bases import Base, Bases
from engine.build import Build
from engine.capacity import BoundedSandbox, Capacity, default_jobs
from engine.context import Context, ContextFiles
from engine.debug import Inside, Spot
from engine.events import BuildEnded, Note, Observer, WarningRaised
from engine.images.reference import Reference
from engine.images.source import ImageSource
from engine.layerstore import LayerStore
from engine.output.image import BuiltImage, assemble
from engine.output.spec import OutputSpec, OutputType
from engine.plan import Plan, make_plan
from engine.remote.contexts import NamedContext, image_names, open_contexts
from engine.remote.remotes import Remotes
from engine.secrets import SHORTEST, Secrets
from engine.sshagent import AgentSource, check_agents, open_agents
from engine.steps.provisions import Provisions
from engine.support import check_supported
from engine.vm.execution import Execution, Output, Result, Sandbox
from engine.vm.network.rules import EgressPolicy
from machinefile.errors import UsageError
from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import Pairs
from machinefile.instructions import Machinefile
from machinefile.lint.linter import LintResult, resolve_and_lint
from machinefile.options import BuildOptions
from machinefile.resolve import base_references
from machinefile.steps import BuildGraph, From, MachineShape, Snapshot

if TYPE_CHECKING:
    from engine.machines.make import MachineMaker
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
    annotations: Pairs = ()
    """--annotation: of the image's manifest."""
    contexts: tuple[NamedContext, ...] = ()
    """--build-context; `options` has their names."""
    jobs: int = 0
    """How many steps may run at once; 0 for what suits this machine."""
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    """What the steps may reach."""
    ssh: tuple[AgentSource, ...] = ()
    """--ssh."""
    secrets: Secrets = field(default_factory=Secrets)
    """--secret."""
    step_timeout: float | None = None
    """--step-timeout: seconds that a RUN may take."""


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
    machines: Callable[[], MachineMaker] | None = None
    """Makes what makes machines, when one is to be made."""

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
        if request.outputs:
            from engine.output.files import check_destinations

            check_destinations(request.outputs)
            _check_machines(request.outputs)
        if self.push is None and any(output.push for output in request.outputs):
            raise UsageError("there is nothing here to push with", code="output-unsupported")
        prepared = self._prepare(request, refuse=True)
        plan = prepared.plan
        self._check_secrets(request, plan)
        with self._building(request, prepared) as (build, layers, sandbox):
            result = build.run()
        base = plan.base_of(plan.graph.result)
        image = self._finish(request, plan.graph, base, result, layers)
        run = len(build.run_steps)
        seconds = time.monotonic() - begun
        hit = len(plan.counted()) - run
        shown = tuple(Reference.parse(name).short for name in request.names)
        self.observer(BuildEnded(image.digest, shown, hit, run, seconds))
        return BuildReport(image.digest, image.manifest.config.digest, hit, run, sandbox.starts, seconds)

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
        layers = LayerStore(self.store, prepared.bases, guard=request.secrets.guard)
        sandbox = BoundedSandbox(_Lazy(self.sandbox), Capacity.of_host())
        with open_agents(request.ssh, prepared.plan.graph, self.store.folder) as agents:
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
                use_cache=request.use_cache,
                jobs=request.jobs or default_jobs(),
                provisions=Provisions(request.egress, agents, request.secrets, request.step_timeout),
            )
            yield build, layers, sandbox

    def _prepare(self, request: BuildRequest, *, refuse: bool) -> _Prepared:
        bases = Bases(self.store, self.source, self.observer, self.cancelled, image_names(request.contexts))
        bases.prefetch(base_references(request.machinefile, request.options))
        remotes = Remotes(self.store, self.observer, self.cancelled)
        graph, checked = resolve_and_lint(request.machinefile, request.options, bases.lookup, request.ignore.prunes)
        self._warn(checked)
        contexts: dict[str, ContextFiles] = {"": Context(request.context, request.ignore)}
        contexts.update(open_contexts(request.contexts, remotes))
        if refuse:
            check_supported(graph, host_network=request.egress.host_network)
            check_agents(graph, request.ssh)
        graph = remotes.pinned(graph)
        by_step = {step.id: bases.get(step.operation.base) for step in graph.steps if isinstance(step.operation, From)}
        plan = make_plan(graph, by_step, contexts, self.store, use_cache=request.use_cache)
        return _Prepared(plan, bases, contexts, remotes)

    def _check_secrets(self, request: BuildRequest, plan: Plan) -> None:
        secrets = request.secrets
        secrets.check_given(planned.step for planned in plan.to_run())
        secrets.check_graph(plan.graph, request.annotations)
        for secret_id in secrets.too_short:
            message = f"the secret {secret_id!r} is shorter than {SHORTEST} bytes: it is not looked for in the result"
            self.observer(WarningRaised(message, "secret-short"))

    def _warn(self, checked: LintResult) -> None:
        for finding in checked.findings:
            self.observer(WarningRaised(finding.message, finding.rule.name, str(finding.span)))
        for note in checked.notes:
            self.observer(WarningRaised(note.message, note.code, str(note.span or "")))

    def _finish(
        self, request: BuildRequest, graph: BuildGraph, base: Base, result: StepResult, layers: LayerStore
    ) -> BuiltImage:
        image = assemble(graph, base, result, self.store, request.annotations)
        for name in request.names:
            image.keep(name, self.store)
        self._machine(request, graph, image, layers)
        request = replace(request, outputs=tuple(one for one in request.outputs if one.type is not OutputType.MACHINE))
        if not request.outputs:
            return image
        from engine.output.outputs import write_outputs  # with every writer, which most builds have no use for

        write_outputs(
            request.outputs,
            image,
            request.names,
            self.store,
            layers,
            self.observer,
            cancelled=self.cancelled,
            push=self.push,
        )
        return image

    def _machine(self, request: BuildRequest, graph: BuildGraph, image: BuiltImage, layers: LayerStore) -> None:
        """Make the machine that SNAPSHOT or an output asks for, and write it where outputs want it."""
        outputs = [output for output in request.outputs if output.type is OutputType.MACHINE]
        if graph.snapshot is None and not outputs:
            return
        if self.machines is None:
            raise UsageError("there is nothing here to make machines with", code="output-unsupported")
        from engine.machines.library import write_out

        machine = self.machines().make(image, graph.config, graph.snapshot or Snapshot(), graph.shape, layers)
        for output in outputs:
            self.observer(Note(f"writing {output.label}"))
            write_out(machine, output.destination)


def _check_machines(outputs: tuple[OutputSpec, ...]) -> None:
    for output in outputs:
        if output.type is OutputType.MACHINE:
            from engine.machines.library import check_destination

            check_destination(output.destination)


class _Lazy:
    """A sandbox that is made when it is first used."""

    def __init__(self, make: Callable[[], Sandbox]) -> None:
        self._make = make
        self._made: Sandbox | None = None
        self._lock = threading.Lock()

    def execute(
        self, execution: Execution, output: Output, cancelled: threading.Event
    ) -> AbstractContextManager[Result]:
        return self._sandbox().execute(execution, output, cancelled)

    def merge(self, newer: Path, into: Path, shape: MachineShape, cancelled: threading.Event) -> None:
        self._sandbox().merge(newer, into, shape, cancelled)

    def _sandbox(self) -> Sandbox:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    @property
    def starts(self) -> int:
        return self._made.starts if self._made is not None else 0
