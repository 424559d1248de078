"""One step of a build carried out, whatever instruction it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from cache.results import Layer
from cache.store import Store
from engine.context import BuildContext
from engine.events import NetworkReached, Note, Observer, StepOutput
from engine.steps.provisions import Provisions
from machinefile.steps import Copy, FromContext, FromStep, RemoteSource, Run, Step, Workdir
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.layerstore import LayerStore
    from engine.remote.remotes import Remotes
    from engine.steps.mounts import MountMaker
    from engine.vm.execution import Sandbox
    from engine.vm.network.gate import EgressLog


@dataclass
class Worker:
    """Makes the layers of a build's steps; for any threads."""

    store: Store
    layers: LayerStore
    sandbox: Sandbox
    contexts: Mapping[str, BuildContext]
    remotes: Remotes
    provisions: Provisions
    layers_of: Callable[[str], tuple[Layer, ...]]
    """All layers of a step's file system."""
    tell: Observer
    _mounts: MountMaker | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def mounts(self) -> MountMaker:
        """Makes what RUNs mount: the same for all, as it remembers the caches that they had."""
        from engine.steps import mounts  # with all of microVMs, which a cached build has no use for

        with self._lock:
            if self._mounts is None:
                self._mounts = mounts.MountMaker(
                    self.store,
                    self.layers,
                    self.layers_of,
                    self.contexts,
                    self.provisions.secrets,
                    lambda line: self.tell(Note(line)),
                )
            return self._mounts

    def make(self, step: Step, label: str, then: Run | None, stood_on: bool, stop: threading.Event) -> Layer | None:
        """The layer that a step adds to what it stands on, None when it changed nothing. `label` is what the step is
        called; `then`, `stood_on`: see `run_step`. Raises as what carries out its instruction."""
        from engine.steps import local, remote, run, workdir  # which a cached build has no use for

        below = self.layers_of(step.parent) if step.parent is not None else ()
        match step.operation:
            case Run() as operation:
                return run.run_step(
                    operation,
                    below,
                    self.layers,
                    self.sandbox,
                    lambda stream, data: self.tell(StepOutput(step.id, stream, data)),
                    stop,
                    self.provisions,
                    self.mounts,
                    lambda log: self._reached(step, label, log),
                    then,
                    stood_on,
                )
            case Copy() as operation:
                match operation.origin:
                    case FromStep(other):
                        return local.copy_from_layers(operation, self.layers_of(other), below, self.layers, other)
                    case FromContext(name):
                        return local.copy_from_context(operation, self.contexts[name], below, self.layers)
                    case _:
                        return local.copy_inline(operation, below, self.layers)
            case RemoteSource() as operation:
                return remote.add_remote(operation, below, self.layers, self.remotes)
            case Workdir() as operation:
                return workdir.make_workdir(operation, below, self.layers)
            case other:
                raise AssertionError(f"{type(other).__name__} is not carried out")

    def _reached(self, step: Step, label: str, log: EgressLog) -> None:
        if log.entries:
            self.tell(NetworkReached(step.id, label, log.entries, log.more))
