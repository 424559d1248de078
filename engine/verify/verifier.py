"""Verifying: building again from nothing, and comparing.

FOLDER/first/             the store of the first build
       second/elsewhere/  that of the second, in other surroundings
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import field, replace
from pathlib import Path

from cache.results import Layer, StepResult
from cache.store import Store
from engine.debug import Inside, Spot, spot_of
from engine.driver import Driver
from engine.events import Note
from engine.layers.limits import LayerLimits
from engine.lookup import CachePolicy
from engine.naming import find_in_plan
from engine.output.compress import PlainLayer
from engine.output.stamped import stamped
from engine.plan import Plan, PlannedStep
from engine.report import BuildReport
from engine.request import BuildRequest
from engine.steps.run import run_step
from engine.verify.difference import StepDifference, Verification
from engine.verify.images import Image, field_differences, find_image, stored_image
from engine.verify.layers import Side, compare_layers
from engine.verify.masking import masked
from engine.verify.rows import Row, aligned, diff_id_of, name_of, step_names
from engine.verify.varied import CLOCK_SHIFT, BackwardContext, ShiftedSandbox, elsewhere, varied
from engine.vm.execution import Sandbox
from machinefile.errors import UsageError
from machinefile.platform import Platform
from machinefile.steps import From, Run, Step
from machinefile.values import dataclass

OpenDriver = Callable[[Path], AbstractContextManager[Driver]]
"""Opens a driver over the store in a folder."""
Pair = tuple[Side, Side]


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of it, and the layers of the first step that differs for as long as the verifier is open."""

    verification: Verification
    layers: Pair | None = None


@dataclass(frozen=True, slots=True)
class _Build:
    driver: Driver
    report: BuildReport
    plan: Plan
    results: Mapping[str, StepResult]

    @property
    def store(self) -> Store:
        return self.driver.store

    def layer(self, step: Step) -> Layer | None:
        result = self.results.get(step.id)
        return result.steps[-1] if result is not None and result.steps else None


@dataclass
class Verifier:
    """Verifies builds with stores of their own below a folder; a context manager that holds those open."""

    open_driver: OpenDriver
    folder: Path
    """Empty."""
    templates: Path
    """The folder of microVM templates, which the stores share: they are no part of an image."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    vary_shape: bool = True
    """Whether the second build's steps get another number of processors."""
    limits: LayerLimits = field(default_factory=LayerLimits.from_environment)

    def __post_init__(self) -> None:
        self._held = ExitStack()

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def twice(self, request: BuildRequest) -> Verified:
        """Build twice, the second time in other surroundings. Raises as a build, and as `compare_layers`."""
        request = _from_nothing(request)
        first = self._build(self._open("first"), request)
        driver = self._open("second/elsewhere")
        self._vary(driver)
        with elsewhere():
            second = self._build(driver, varied(request, shape=self.vary_shape))
        return self._masked(request, self._compared(request, first, second))

    def against(self, request: BuildRequest, name: str, store: Store) -> Verified:
        """Build once and compare with an image, which may be in `store`. Raises as a build and as `find_image`."""
        if len(request.for_each_platform()) > 1:
            raise UsageError(
                "an image can be verified for one platform at a time",
                code="verify-platforms",
                hint="name one with --platform",
            )
        (platform,) = request.for_each_platform()
        driver, theirs = self.find(name, platform, store)
        return self.rebuilt(_from_nothing(request), driver, theirs)

    def find(self, name: str, platform: Platform, store: Store) -> tuple[Driver, Image]:
        """What is to build an image again, and the image. Raises as `find_image`."""
        driver = self._open("first")
        return driver, find_image(name, platform, store, driver.store, driver.source, driver.observer)

    def rebuilt(self, request: BuildRequest, driver: Driver, theirs: Image) -> Verified:
        """Build as asked, for one platform, and compare; with what an output keeps under a name, if there is one.

        Raises as a build.
        """
        (platform,) = request.for_each_platform()
        built = self._build(driver, request)
        kept = [built.store.names.get(name) for output in request.outputs for name in output.names]
        digest = next((image.digest for image in kept if image is not None), built.report.images[0].digest)
        ours = stored_image(built.store, "the rebuild", digest, platform)
        return self._masked(request, self._compared_images(request, built, theirs, ours))

    def step(self, request: BuildRequest, words: str) -> Verified:
        """Build what a RUN stands on once, and run it twice, the second time in other surroundings.

        Raises as a build, and UsageError `step-unknown`, `step-ambiguous`, `verify-step`.
        """
        request = _from_nothing(request)
        driver = self._open("first")
        found: list[Spot] = []

        def find(plan: Plan) -> Spot:
            _, step, _ = find_in_plan(plan, words)
            if not isinstance(step.operation, Run):
                raise UsageError(
                    f"{step.id} is no RUN: the other instructions do the same every time",
                    code="verify-step",
                    hint="name a RUN as mbuild plan prints it, or verify the whole build without --step",
                )
            found.append(spot_of(plan, step.id))
            return found[-1]

        with driver.look_inside(request, find) as inside:
            step = found[-1].step
            again = driver.plan(varied(request, shape=self.vary_shape)).step(step.id).step
            driver.observer(Note(f"running {step.instruction}"))
            first = self._run(step, inside, inside.sandbox)
            driver.observer(Note(f"running {step.instruction} again, in other surroundings"))
            with elsewhere():
                second = self._run(again, inside, ShiftedSandbox(inside.sandbox))
        first, second = self._shown(request, StepResult((first, second)), driver.store).steps
        pair = self._side(first, driver.store), self._side(second, driver.store)
        difference = None if first == second else self._difference(request, step, pair, driver.store)
        sides = ("the first run", "the second run")
        verification = Verification(f"the step {step.id}", sides, pair[0].diff_id, pair[1].diff_id, difference)
        return self._masked(request, Verified(verification, pair))

    def _run(self, step: Step, inside: Inside, sandbox: Sandbox) -> Layer | None:
        if not isinstance(step.operation, Run):
            raise AssertionError("only a RUN is run twice")
        return run_step(
            step.operation,
            inside.below,
            inside.layers,
            sandbox,
            lambda stream, data: None,
            self.cancelled,
            inside.provisions,
            inside.mounts,
        )

    def _open(self, name: str) -> Driver:
        """A driver over a new store, which has the templates."""
        store = self.folder / name
        store.mkdir(parents=True)
        (store / "vm").symlink_to(self.templates.absolute())
        return self._held.enter_context(self.open_driver(store))

    def _vary(self, driver: Driver) -> None:
        usual = driver.sandbox
        driver.sandbox = lambda: ShiftedSandbox(usual())
        driver.open_context = BackwardContext
        driver.clock_shift = CLOCK_SHIFT

    def _build(self, driver: Driver, request: BuildRequest) -> _Build:
        kept: list[tuple[Plan, Mapping[str, StepResult]]] = []
        driver.finished = lambda plan, results: kept.append((plan, dict(results)))
        report = driver.build(request)
        plan, results = kept[-1]
        results = {step_id: self._shown(request, result, driver.store) for step_id, result in results.items()}
        return _Build(driver, report, plan, results)

    def _shown(self, request: BuildRequest, result: StepResult, store: Store) -> StepResult:
        """The same with the times that an image shows: what SOURCE_DATE_EPOCH takes away of them is no difference."""
        if not (request.keep_times and request.restamps):
            return result
        return stamped(result, request.time, store, self.cancelled, clamp=True)

    def _compared(self, request: BuildRequest, first: _Build, second: _Build) -> Verified:
        digests = first.report.digest, second.report.digest
        verification = Verification(
            f"the build of {first.plan.graph.target}", ("the first build", "the second build"), *digests
        )
        if digests[0] == digests[1]:
            return Verified(verification)
        differing = [planned for planned in first.plan.steps if _came_to(first, planned) != _came_to(second, planned)]
        fields = tuple(
            difference
            for ours, theirs in zip(first.report.images, second.report.images, strict=True)
            for difference in field_differences(
                stored_image(first.store, "the first build", ours.digest, ours.platform).image,
                stored_image(second.store, "the second build", theirs.digest, theirs.platform).image,
            )
        )
        later = tuple(planned.step.id for planned in differing[1:])
        verification = replace(verification, later=later, fields=fields)
        if not differing:
            return Verified(verification)
        step = differing[0].step
        if isinstance(step.operation, From):
            said = replace(
                _bare(step), first=_base(first, step), second=_base(second, step), note="it is another image by now"
            )
            return Verified(replace(verification, step=said))
        pair = self._side(first.layer(step), first.store), self._side(second.layer(step), second.store)
        return Verified(replace(verification, step=self._difference(request, step, pair, first.store)), pair)

    def _compared_images(self, request: BuildRequest, built: _Build, theirs: Image, ours: Image) -> Verified:
        verification = Verification(
            f"the image {theirs.name}", (theirs.name, ours.name), theirs.image.digest, ours.image.digest
        )
        if verification.reproducible:
            return Verified(verification)
        rows = aligned(theirs.steps(), ours.steps())
        self._check(theirs, rows)
        differing = [number for number, row in enumerate(rows) if diff_id_of(row[0]) != diff_id_of(row[1])]
        names = step_names(built.plan, ours, rows)
        later = tuple(name_of(names, number) for number in differing[1:])
        fields = field_differences(theirs.image, ours.image)
        verification = replace(verification, fields=fields, later=later)
        if not differing:
            return Verified(verification)
        row = rows[differing[0]]
        step = names.get(differing[0])
        pair = self._image_side(theirs, row[0]), self._image_side(ours, row[1])
        lines = [line[0].created_by if line else "" for line in row]
        if step is not None:
            said = self._difference(request, step, pair, built.store)
        else:
            name = name_of(names, differing[0])
            said = self._filled(request, StepDifference(name, lines[1] or lines[0], 0, "", ""), pair, built.store)
        if row[0] is None or row[1] is None:
            said = replace(said, note=f"only {'the rebuild' if row[0] is None else theirs.name} has it")
        elif lines[0] != lines[1] and lines[0]:
            said = replace(said, note=f"the instruction there is another: {lines[0]}")
        return Verified(replace(verification, step=said), pair)

    def _difference(self, request: BuildRequest, step: Step, pair: Pair, store: Store) -> StepDifference:
        return self._filled(request, _bare(step), pair, store)

    def _filled(self, request: BuildRequest, said: StepDifference, pair: Pair, store: Store) -> StepDifference:
        needles = tuple(needle for _, needle in request.secrets.needles)
        found = compare_layers(*pair, scratch=store.temporary, cancelled=self.cancelled, hidden=needles)
        return replace(said, first=pair[0].diff_id, second=pair[1].diff_id, files=found.files, more=found.more)

    def _side(self, layer: Layer | None, store: Store) -> Side:
        if layer is None:
            return Side("", None, self.limits)
        return Side(layer.diff_id, lambda: store.blobs.open(layer.digest), self.limits)

    def _check(self, theirs: Image, rows: Sequence[tuple[Row | None, Row | None]]) -> None:
        """Read the layers of an image that it says are those of the rebuild: anybody can say that.

        Raises UntrustedDataError `diff-id-mismatch`.
        """
        for one, other in rows:
            there, here = (row[1] if row is not None else None for row in (one, other))
            if there is None or here is None or there.diff_id != here.diff_id or there.digest == here.digest:
                continue
            with theirs.open(there) as blob:
                plain = PlainLayer(there, blob, self.cancelled)
                while plain.read():
                    pass
                plain.check()

    def _image_side(self, image: Image, row: Row | None) -> Side:
        layer = row[1] if row is not None else None
        if layer is None:
            return Side("", None, self.limits)
        return Side(layer.diff_id, lambda: image.open(layer), self.limits)

    def _masked(self, request: BuildRequest, verified: Verified) -> Verified:
        return replace(verified, verification=masked(verified.verification, request.secrets))


def _from_nothing(request: BuildRequest) -> BuildRequest:
    """The build without any cache, and without what it leaves behind."""
    return replace(
        request,
        names=(),
        outputs=(),
        cache=CachePolicy(),
        cache_from=(),
        cache_to=(),
        inline_cache=False,
        fail_on_miss=False,
    )


def _came_to(build: _Build, planned: PlannedStep) -> str:
    step = planned.step
    if isinstance(step.operation, From):
        return _base(build, step)
    layer = build.layer(step)
    return layer.diff_id if layer is not None else ""


def _base(build: _Build, step: Step) -> str:
    base = build.plan.bases.get(step.id)
    return base.digest if base is not None else ""


def _bare(step: Step) -> StepDifference:
    return StepDifference(step.id, step.instruction, step.span.line if step.span else 0, "", "")
