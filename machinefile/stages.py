"""Instructions cut into stages, and who refers to whom."""

from __future__ import annotations

import re
from collections.abc import Iterator

from machinefile.commas import QuotesError, split_commas
from machinefile.errors import MachinefileError, Problem
from machinefile.flags import flag_value
from machinefile.instructions import Flag, Instruction, Machinefile
from machinefile.report import Report
from machinefile.suggest import did_you_mean
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and what follows it."""

    index: int
    name: str
    """Lower case; empty where it has none."""
    opening: Instruction
    instructions: tuple[Instruction, ...]

    @property
    def label(self) -> str:
        """Its name, or its number where it has none."""
        return self.name or str(self.index)


@dataclass(frozen=True, slots=True)
class Layout:
    """A file as stages."""

    arguments: tuple[Instruction, ...]
    """The ARGs before the first FROM."""
    stages: tuple[Stage, ...]

    def find(self, name: str, before: int | None = None) -> Stage | None:
        """The stage of that name or number: the last one before a place, or else the first after it.

        A name counts before a number, and its case doesn't.
        """
        named = [stage for stage in self.stages if stage.name == name.lower()] if name else []
        if named:
            earlier = [stage for stage in named if before is None or stage.index < before]
            return earlier[-1] if earlier else named[0]
        if re.fullmatch(r"[0-9]{1,9}", name) and int(name) < len(self.stages):
            return self.stages[int(name)]
        return None

    def earlier(self, name: str, before: int) -> Stage | None:
        """The last stage of that name before a place: what a FROM can see."""
        found = [stage for stage in self.stages[:before] if stage.name and stage.name == name.lower()]
        return found[-1] if found else None

    def target(self, name: str | None) -> Stage:
        """The stage to build, by its name, its number or what its steps are called after. Raises MachinefileError for
        an unknown one."""
        if name is None:
            return self.stages[-1]
        found = self.find(name) or next((stage for stage in self.stages if self.label(stage) == name), None)
        if found is None:
            hint = did_you_mean(name, self.names, f"the stages are {', '.join(self.names)}")
            raise MachinefileError.one(f"there is no stage {name} to build", code="unknown-target", hint=hint)
        return found

    def label(self, stage: Stage) -> str:
        """What a stage's steps are called after: its name; with its number where another stage has the same."""
        same = [other for other in self.stages if other.label == stage.label]
        return stage.label if len(same) == 1 else f"{stage.label}-{stage.index}"

    def labels_of(self, name: str) -> frozenset[str]:
        """The labels of the stages of that name, of which there may be several, or of the stage of that number."""
        named = [stage for stage in self.stages if stage.name and stage.name == name.lower()]
        found = named or [stage for stage in (self.find(name),) if stage is not None]
        return frozenset(map(self.label, found))

    @property
    def declared(self) -> frozenset[str]:
        """The names of the ARGs before the first FROM, with a value or without."""
        return frozenset(pair.name for instruction in self.arguments for pair in instruction.pairs)

    @property
    def names(self) -> tuple[str, ...]:
        """What the stages are called."""
        return tuple(stage.label for stage in self.stages)


def split_stages(machinefile: Machinefile) -> Layout:
    """Cut a file into stages. Raises MachinefileError when it has none, or begins with something else."""
    arguments: list[Instruction] = []
    openings: list[tuple[Instruction, list[Instruction]]] = []
    problems = []
    for instruction in machinefile.instructions:
        if instruction.name == "FROM":
            openings.append((instruction, []))
        elif openings:
            openings[-1][1].append(instruction)
        elif instruction.name == "ARG":
            arguments.append(instruction)
        else:
            message = f"{instruction.name} stands before the first FROM"
            hint = "only ARG may; begin with FROM"
            problems.append(Problem(message, "before-from", instruction.name_span, hint))
    if not openings:
        message = f"{machinefile.source.name} has no FROM, so there is nothing to build"
        problems.append(Problem(message, "no-from", None, "begin with FROM, for example FROM debian:bookworm-slim"))
    if problems:
        raise MachinefileError(problems)
    stages = (
        Stage(index, opening.words[2].text.lower() if len(opening.words) == 3 else "", opening, tuple(rest))
        for index, (opening, rest) in enumerate(openings)
    )
    return Layout(tuple(arguments), tuple(stages))


def sources_of(instruction: Instruction) -> Iterator[tuple[str, Flag]]:
    """The names that an instruction takes files from (COPY --from, RUN --mount=...,from=), with their flags."""
    if instruction.name == "COPY":
        flag = instruction.flag("from")
        if flag is not None and flag_value(flag):
            yield flag_value(flag), flag
    for flag in instruction.flags_named("mount"):
        name = mount_source(flag_value(flag))
        if name:
            yield name, flag


def mount_source(value: str) -> str:
    """The `from` of a mount, where it has one that counts."""
    try:
        fields = split_commas(value)
    except QuotesError:
        return ""
    options = {key.lower(): option for key, _, option in (part.partition("=") for part in fields)}
    return "" if options.get("type", "").lower() in ("tmpfs", "secret", "ssh") else options.get("from", "")


def check_order(layout: Layout, parents: dict[int, int], report: Report) -> None:
    """Refuse stages that need one another, and stages that need a later one."""
    edges: dict[int, list[tuple[int, Instruction, Flag]]] = {}
    for stage in layout.stages:
        for instruction in stage.instructions:
            for name, flag in sources_of(instruction):
                found = layout.find(name, stage.index)
                if found is not None:
                    edges.setdefault(stage.index, []).append((found.index, instruction, flag))
    for index, needed in edges.items():
        for other, instruction, flag in needed:
            if other < index:
                continue
            path = _path(other, index, edges, parents)
            span = instruction.span_of(flag)
            if path is not None:
                names = [layout.stages[step].label for step in (index, *path)]
                message = f"stages need one another: {' -> '.join(names)}"
                report.problem(message, "stage-cycle", span, "move what both need into a stage of its own")
            else:
                label = layout.stages[other].label
                message = f"the stage {label} comes later than the stage that copies from it"
                report.problem(message, "stage-order", span, f"move {label} further up")


def _path(
    start: int, goal: int, edges: dict[int, list[tuple[int, Instruction, Flag]]], parents: dict[int, int]
) -> list[int] | None:
    """How one stage needs another, directly or not."""
    came: dict[int, int] = {start: -1}
    waiting = [start]
    while waiting:
        current = waiting.pop()
        if current == goal:
            path = [current]
            while came[path[-1]] >= 0:
                path.append(came[path[-1]])
            return path[::-1]
        following = [other for other, _, _ in edges.get(current, ())]
        if current in parents:
            following.append(parents[current])
        for other in following:
            if other not in came:
                came[other] = current
                waiting.append(other)
    return None
