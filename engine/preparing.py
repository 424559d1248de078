"""From a request to a plan: bases and remote sources are found, the context is hashed, every key is looked up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cache.contexts import ContextDigests, KnownContexts
from cache.spans import span
from cache.store import Store
from engine.bases import Bases
from engine.carry.carried import CarriedResults
from engine.carry.sources import RemoteCaches
from engine.context import BuildContext, Context
from engine.events import Observer, WarningRaised
from engine.images.source import ImageSource
from engine.lookup import CachePolicy, Results
from engine.platforms import for_each
from engine.prepared import Prepared, plan_all
from engine.remote.contexts import image_names, open_contexts
from engine.remote.remotes import Remotes
from engine.request import BuildRequest
from engine.sshagent import check_agents
from engine.support import check_supported
from machinefile.errors import UsageError
from machinefile.ignore import IgnoreRules
from machinefile.lint.linter import LintResult, resolve_and_lint
from machinefile.options import BuildOptions
from machinefile.resolve import base_references
from machinefile.stages import split_stages
from machinefile.steps import BuildGraph
from machinefile.values import dataclass

if TYPE_CHECKING:
    from cache.carry.place import CachePlace
    from engine.carry.sources import OpenTrust
    from engine.carry.spec import CacheSource
    from engine.pins import Pins


class OpenContext(Protocol):
    """Opens a folder as a build context: Context, or what stands for it."""

    def __call__(
        self, root: Path, rules: IgnoreRules, known: ContextDigests | None = None, *, git_modes: bool = False
    ) -> BuildContext:
        """As of Context."""
        ...


@dataclass(frozen=True, slots=True)
class Preparer:
    """Finds out all that can be known of a build before a step of it runs."""

    store: Store
    source: ImageSource
    observer: Observer
    cancelled: threading.Event
    open_source: Callable[[CacheSource], CachePlace] | None = None
    """Opens a cache to be read."""
    open_trust: OpenTrust | None = None
    """Reads the keys that a cache's entries must be signed with."""
    open_context: OpenContext = Context
    """Opens the folder that is the build context."""

    def caches(self, request: BuildRequest) -> RemoteCaches:
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

    def prepare(self, request: BuildRequest, caches: RemoteCaches, *, refuse: bool) -> Prepared:
        """Everything that is known before a step runs, for all platforms. `refuse` what cannot be carried out.

        Raises MachinefileError, UsageError, TransferError.
        """
        wanted = request.for_each_platform()
        pins: Pins | None = None
        if request.lock is not None:
            from engine.lockcheck import check_lock, pins_of, refuse_unpinned_bases

            pins = pins_of(request)
        bases = Bases(self.store, self.source, self.observer, self.cancelled, image_names(request.contexts), pins)
        if pins is not None and request.locked:
            refuse_unpinned_bases(request, pins, bases.lookup)
        with span("look up bases", "phase"):
            bases.prefetch(one for options in wanted.values() for one in base_references(request.machinefile, options))
        remotes = Remotes(self.store, self.observer, self.cancelled, pins=pins)
        with span("resolve", "phase"):
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
        with span("pin files from afar", "phase"):
            graphs = tuple(
                (platform, _timed(request, request.secrets.versioned(remotes.pinned(graph))))
                for platform, (graph, _) in zip(wanted, resolved, strict=True)
            )
        bases.blobs.add(caches)
        carried = CarriedResults(self.store, caches)
        results = Results(self.store, self._policy(request), carried if request.cache_from else None)
        try:
            with span("plan", "phase"):
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

    def _warn(self, results: Sequence[LintResult]) -> None:
        """Tell what was found, and what several platforms have in common once."""
        found = [finding for checked in results for finding in checked.findings]
        notes = [note for checked in results for note in checked.notes]
        warnings = [WarningRaised(one.message, one.rule.name, str(one.span)) for one in found]
        warnings += (WarningRaised(note.message, note.code, str(note.span or "")) for note in notes)
        for warning in dict.fromkeys(warnings):
            self.observer(warning)


def _no_source(source: CacheSource) -> CachePlace:
    raise AssertionError("no cache is to be opened")


def _timed(request: BuildRequest, graph: BuildGraph) -> BuildGraph:
    """The graph, whose steps keep the times of what they make if that was asked for."""
    if not request.keep_times:
        return graph
    return replace(graph, steps=tuple(replace(step, keep_times=True) for step in graph.steps))
