"""From the results of steps to an image with names, outputs and machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cache.results import StepResult
from cache.spans import span
from cache.store import Store
from engine.attest.facts import BuildFacts
from engine.events import Note, Observer
from engine.layerstore import LayerStore
from engine.output.annotations import Annotations
from engine.output.image import BuiltImage, assemble, rfc3339
from engine.output.index import Built, gather, is_whole
from engine.output.moments import Moments, real_moments
from engine.output.spec import OutputType
from engine.plan import Plan
from engine.request import BuildRequest
from engine.supply import LayerSupply
from machinefile.errors import UsageError
from machinefile.steps import BuildGraph, Snapshot
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.carry.inline import StepKeys
    from engine.machines.make import MachineMaker
    from engine.output.outputs import Attest, Push


@dataclass(frozen=True, slots=True)
class Finisher:
    """Puts images together, names them, and writes them where they are wanted."""

    store: Store
    observer: Observer
    cancelled: threading.Event
    push: Push | None = None
    """Brings an image of the store into registries under names."""
    machines: Callable[[], MachineMaker] | None = None
    """Makes what makes machines, when one is to be made."""
    clock_shift: int = 0
    """Seconds that real times are ahead."""

    def finish(
        self,
        request: BuildRequest,
        plan: Plan,
        results: Sequence[StepResult],
        layers: LayerStore,
        supply: LayerSupply,
        facts: BuildFacts,
        steps: Mapping[str, StepResult],
    ) -> tuple[Built, str]:
        """Put the images together, and behind an index if there are several; name them and write them out. Gives also
        the digest of the index that has what is said about them, if anything is. `steps` is what all steps came to.

        Raises as `assemble` and `write_outputs`, MissError, and what making a machine raises.
        """
        moments = [self._moments(request, plan, graph, steps) for graph in plan.graphs]
        annotations = request.annotations.dated(rfc3339(max(one.created for one in moments)))
        with span("assemble", "output"):
            images = [
                assemble(
                    graph,
                    plan.base_of(graph.result),
                    self._stamped(request, result, supply),
                    self.store,
                    annotations,
                    platform,
                    self.cancelled,
                    _keys_of_image(plan, graph.result, result, moment) if request.inline_cache else (),
                    supply,
                    moment,
                )
                for platform, graph, result, moment in zip(plan.platforms, plan.graphs, results, moments, strict=True)
            ]
        built = gather(images, annotations, self.store)
        if request.fail_on_miss:
            self._check_machines(request, plan, images)
        with span("attest", "output"):
            attest = self._attest(request, plan, images, layers, facts, annotations)
            named = attest(built, request.names) if attest is not None else built
        self._keep(request, named, supply)
        self._machines(request, plan, images, layers)
        if attest is not None and len(images) == 1:
            from engine.machines.library import Library

            Library(self.store).share(images[0].digest, named.digest)
        self._write(request, built, layers, supply, attest)
        return built, "" if attest is None else named.digest

    def _write(
        self, request: BuildRequest, built: Built, layers: LayerStore, supply: LayerSupply, attest: Attest | None
    ) -> None:
        """Write the images where they are wanted; machines are made elsewhere."""
        outputs = tuple(output for output in request.outputs if output.type is not OutputType.MACHINE)
        if not outputs:
            return
        with span("import", "phase"):
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
        if not request.restamps:
            return result
        from engine.output.stamped import stamped

        return stamped(result, request.time, self.store, self.cancelled, supply, clamp=request.keep_times)

    def _moments(
        self, request: BuildRequest, plan: Plan, graph: BuildGraph, steps: Mapping[str, StepResult]
    ) -> Moments:
        if not request.keep_times:
            return Moments(request.time)
        latest = None if request.epoch is None else request.time
        return real_moments(graph, plan.base_of(graph.result), steps, latest, self.clock_shift)

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
            with span("machine", "output"):
                machine = self._machine_maker().make(image, graph.config, snapshot, graph.shape, layers)
            for output in outputs:
                self.observer(Note(f"writing {output.label}"))
                with span("output", "output", to=output.label):
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


def _keys_of_image(plan: Plan, target: str, whole: StepResult, moments: Moments) -> tuple[StepKeys, ...]:
    from engine.carry.imagekeys import keys_of_image

    return keys_of_image(plan, target, whole, moments.lines)
