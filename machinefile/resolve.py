"""A parsed file to a graph of steps in which everything has its value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace

from machinefile.arguments import Arguments, check_consumed, global_arguments
from machinefile.bases import (
    Base,
    context_name,
    find_bases,
    hint_for_image,
    image_reference,
    images_below,
    needed_stages,
)
from machinefile.building import DEFAULT_PATH, Building, StageState, merge_pairs, set_pair
from machinefile.copies import resolve_copy, resolve_workdir
from machinefile.errors import MachinefileError, MbuildError, Problem, UsageError
from machinefile.imageconfig import ImageConfig
from machinefile.instructions import Flag, Instruction, Machinefile
from machinefile.machines import resolve_machine, resolve_snapshot
from machinefile.metadata import (
    resolve_arg,
    resolve_cmd,
    resolve_entrypoint,
    resolve_env,
    resolve_expose,
    resolve_healthcheck,
    resolve_label,
    resolve_maintainer,
    resolve_onbuild,
    resolve_shell,
    resolve_stopsignal,
    resolve_user,
    resolve_volume,
)
from machinefile.options import BuildOptions
from machinefile.parser import parse_trigger
from machinefile.report import Report
from machinefile.runs import resolve_run
from machinefile.source import Span
from machinefile.stages import Layout, Stage, check_order, sources_of, split_stages
from machinefile.steps import (
    SCRATCH,
    BaseImage,
    BaseReference,
    BuildGraph,
    Copy,
    From,
    FromContext,
    FromStep,
    MachineShape,
    Origin,
    Run,
    Step,
)
from machinefile.values import dataclass

Lookup = Callable[[BaseReference], BaseImage]
"""Finds an image's digest and configuration; may raise any MbuildError."""

Visit = Callable[[Stage, Base, Building, Instruction], None]
"""Sees an instruction of the file, its FROM too, with the state of its stage just before it is carried out."""

_HANDLERS: dict[str, Callable[[Building, Instruction], None]] = {
    "ADD": resolve_copy,
    "ARG": resolve_arg,
    "CMD": resolve_cmd,
    "COPY": resolve_copy,
    "ENTRYPOINT": resolve_entrypoint,
    "ENV": resolve_env,
    "EXPOSE": resolve_expose,
    "HEALTHCHECK": resolve_healthcheck,
    "LABEL": resolve_label,
    "MACHINE": resolve_machine,
    "MAINTAINER": resolve_maintainer,
    "ONBUILD": resolve_onbuild,
    "RUN": resolve_run,
    "SHELL": resolve_shell,
    "SNAPSHOT": resolve_snapshot,
    "STOPSIGNAL": resolve_stopsignal,
    "USER": resolve_user,
    "VOLUME": resolve_volume,
    "WORKDIR": resolve_workdir,
}


def _look_away(stage: Stage, base: Base, building: Building, instruction: Instruction) -> None:
    pass


def resolve(machinefile: Machinefile, options: BuildOptions, lookup: Lookup, visit: Visit = _look_away) -> BuildGraph:
    """The steps that the target needs, with every variable, path and name resolved.

    `lookup` is called once for each image that is needed. Its errors get the place of the FROM (or flag) that names
    the image. Raises MachinefileError with every independent mistake otherwise.
    """
    report = Report()
    layout, arguments, bases = _survey(machinefile, options, report)
    target = layout.target(options.target)
    check_consumed(layout, options, report)
    resolver = _Resolver(machinefile, options, lookup, layout, arguments, bases, report, visit)
    resolver.build(target)
    report.check()
    return resolver.graph(target)


def resolve_every_stage(
    machinefile: Machinefile, options: BuildOptions, lookup: Lookup, visit: Visit = _look_away
) -> Report:
    """What there is to say about all stages, needed or not. Mistakes are in the report.

    Raises what `lookup` raises, but for UsageError, which is a mistake in the file.
    """
    report = Report()
    try:
        layout, arguments, bases = _survey(machinefile, options, report)
        check_consumed(layout, options, report)
        resolver = _Resolver(machinefile, options, lookup, layout, arguments, bases, report, visit)
        layout.target(options.target)
        for stage in layout.stages:
            resolver.build(stage)
    except MachinefileError as error:
        report.problems.extend(problem for problem in error.problems if problem not in report.problems)
    except UsageError as error:  # a lookup's: what stands there names no image
        report.problems.append(Problem(error.message, error.code, error.span, error.hint))
    return report


def base_references(machinefile: Machinefile, options: BuildOptions) -> tuple[BaseReference, ...]:
    """The images that the target is known to need before any of them is looked at, without repeats.

    Those that only an image's ONBUILD names are not among them. Raises MachinefileError.
    """
    report = Report()
    layout, _, bases = _survey(machinefile, options, report)
    target = layout.target(options.target)
    found: dict[BaseReference, None] = {}
    for stage in needed_stages(layout, bases, target, options):
        found.update(dict.fromkeys(images_below(stage, layout, bases, options)))
    return tuple(found)


def _survey(
    machinefile: Machinefile, options: BuildOptions, report: Report
) -> tuple[Layout, Arguments, Mapping[int, Base]]:
    layout = split_stages(machinefile)
    arguments = global_arguments(machinefile, layout, options, report)
    bases = find_bases(layout, arguments, options, machinefile.escape, report)
    parents = {index: base.parent.index for index, base in bases.items() if base.parent is not None}
    check_order(layout, parents, report)
    report.check()
    return layout, arguments, bases


@dataclass(slots=True)
class _Resolver:
    machinefile: Machinefile
    options: BuildOptions
    lookup: Lookup
    layout: Layout
    arguments: Arguments
    bases: Mapping[int, Base]
    report: Report
    visit: Visit
    steps: list[Step] = field(default_factory=list)
    finished: dict[int, StageState] = field(default_factory=dict)
    images: dict[BaseReference, str] = field(default_factory=dict)
    """Images that are copied or mounted from: the id of each one's step."""
    known: dict[BaseReference, BaseImage] = field(default_factory=dict)

    def build(self, target: Stage) -> None:
        """Resolve a stage and those below it, lowest first."""
        for stage in needed_stages(self.layout, self.bases, target, self.options):
            if stage.index not in self.finished:
                self._stage(stage)

    def graph(self, target: Stage) -> BuildGraph:
        """What was resolved, as a graph."""
        state = self.finished[target.index]
        labels = merge_pairs(state.config.labels, dict(self.options.labels))
        base = self.bases[target.index]
        while base.parent is not None:
            base = self.bases[base.parent.index]
        return BuildGraph(
            target=self.layout.label(target),
            steps=tuple(self.steps),
            result=state.tip,
            config=replace(state.config, labels=labels),
            platform=base.image.platform if base.image is not None else self.options.platform,
            shape=state.shape,
            snapshot=state.snapshot,
            warnings=tuple(self.report.warnings),
            author=state.author,
            history=state.history,
        )

    def _stage(self, stage: Stage) -> None:
        base = self.bases[stage.index]
        building = Building(
            self.layout.label(stage),
            self.options,
            self.arguments,
            self.machinefile.escape,
            self.report,
            self._linker(stage),
        )
        building.shape = self.options.shape or MachineShape()
        self._begin(building, stage, base)
        self.visit(stage, base, building, stage.opening)
        if not base.replaced:
            self._triggers(building, stage)
            for instruction in stage.instructions:
                self.visit(stage, base, building, instruction)
                self._instruction(building, instruction)
        self._apply_shape(building)
        self.steps.extend(building.steps)
        self.finished[stage.index] = building.finish()

    def _begin(self, building: Building, stage: Stage, base: Base) -> None:
        if base.parent is not None:
            _inherit(building, self.finished[base.parent.index])
        elif base.image is not None:
            image = self._image(base.image, stage.opening.span_of(stage.opening.words[0]))
            config = image.config
            if base.image.reference == SCRATCH and not config.working_dir:
                config = replace(config, working_dir="/")
            building.config = config
            suffix = f" AS {stage.name}" if stage.name else ""
            text = f"FROM context:{base.context}" if base.context else f"FROM {base.image.reference}"
            building.add(stage.opening, From(base.image, image.digest), text + suffix, text)
            if base.context:
                files = Copy(FromContext(base.context), (".",), "/", into_directory=True)
                text = f"COPY --from={base.context} / /"
                building.add(stage.opening, files, text, text)
        if all(name != "PATH" for name, _ in building.config.env):
            building.configure(env=set_pair(building.config.env, "PATH", DEFAULT_PATH))
        building.environment.update(building.config.env if base.parent is None else ())
        building.environment.setdefault("PATH", DEFAULT_PATH)

    def _triggers(self, building: Building, stage: Stage) -> None:
        """Run what the base left in its ONBUILDs, as if it stood right below the FROM."""
        triggers, building.config = building.config.on_build, replace(building.config, on_build=())
        if not triggers:
            return
        place = stage.opening.span_of(stage.opening.words[0])
        name = f"the ONBUILD of {stage.opening.words[0].text}"
        building.place, building.escape = place, "\\"
        for text in triggers:
            try:
                self._trigger(building, stage, parse_trigger(text, name))
            except MachinefileError as error:
                for problem in error.problems:
                    self.report.problem(f"in {name}: {problem.message}", problem.code, place, problem.hint)
        building.place, building.escape = None, self.machinefile.escape

    def _trigger(self, building: Building, stage: Stage, instruction: Instruction) -> None:
        if instruction.name in ("FROM", "ONBUILD", "MAINTAINER"):
            raise building.fail(instruction, f"{instruction.name} can't stand in an ONBUILD", "onbuild-forbidden")
        for source, _ in sources_of(instruction):
            needed = self.layout.find(source, stage.index)
            if needed is None or context_name(source, self.options):
                continue
            if needed.index >= stage.index:
                message = f"the stage {needed.label} comes later than the stage that copies from it"
                raise building.fail(instruction, message, "stage-order", f"move {needed.label} further up")
            self.build(needed)
        _HANDLERS[instruction.name](building, instruction)

    def _instruction(self, building: Building, instruction: Instruction) -> None:
        try:
            _HANDLERS[instruction.name](building, instruction)
        except MachinefileError as error:
            self.report.problems.extend(error.problems)

    def _apply_shape(self, building: Building) -> None:
        """Give every step of the stage what its MACHINE says, also those above it."""
        for number, step in enumerate(building.steps):
            if isinstance(step.operation, Run) and step.operation.shape != building.shape:
                operation = replace(step.operation, shape=building.shape)
                building.steps[number] = replace(step, operation=operation)

    def _linker(self, stage: Stage) -> Callable[[Instruction, Flag, str], Origin]:
        def link(instruction: Instruction, flag: Flag, name: str) -> Origin:
            if "$" in name:
                hint = "name a stage with FROM $NAME AS stage, and copy from that"
                message = "variables don't work in --from"
                raise MachinefileError.one(message, code="from-variable", span=instruction.span_of(flag), hint=hint)
            context = context_name(name, self.options)
            if context in self.options.image_contexts:
                return FromStep(self._source_image(f"context:{context}", instruction, flag))
            if context:
                return FromContext(context)
            found = self.layout.find(name, stage.index)
            if found is not None:
                return FromStep(self.finished[found.index].tip)
            return FromStep(self._source_image(name, instruction, flag))

        return link

    def _source_image(self, name: str, instruction: Instruction, flag: Flag) -> str:
        reference = image_reference(name, self.options.platform)
        if reference not in self.images:
            span = instruction.span_of(flag)
            image = self._image(reference, span)
            step = Step(f"{name}.0", name, f"FROM {name}", From(reference, image.digest), None, span=span)
            self.steps.append(step)
            self.images[reference] = step.id
        return self.images[reference]

    def _image(self, reference: BaseReference, span: Span) -> BaseImage:
        if reference.reference == SCRATCH:
            return BaseImage("", ImageConfig())
        if reference not in self.known:
            try:
                self.known[reference] = self.lookup(reference)
            except MbuildError as error:
                error.span = error.span or span
                error.hint = error.hint or hint_for_image(reference.reference, self.layout)
                raise
        return self.known[reference]


def _inherit(building: Building, parent: StageState) -> None:
    building.tip = parent.tip
    building.config = parent.config
    building.environment = dict(parent.environment)
    building.declared = list(parent.arguments)
    building.history = list(parent.history)
    building.author = parent.author
    building.shape = parent.shape
    building.snapshot = parent.snapshot
