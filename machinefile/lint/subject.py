"""What rules look at: the file, and what was learnt of it while it was resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from machinefile.bases import Base
from machinefile.building import Building
from machinefile.copies import is_remote
from machinefile.expansion import ExpansionError, expand
from machinefile.instructions import Instruction, Machinefile, Word
from machinefile.options import BuildOptions
from machinefile.platform import Platform
from machinefile.stages import Layout, Stage
from machinefile.steps import SCRATCH, BaseReference
from machinefile.steps import Warning as BuildWarning
from machinefile.values import dataclass

Ignored = Callable[[str], bool]
"""Whether a path of the context, and all that is below it, is left out."""


@dataclass(frozen=True, slots=True)
class Use:
    """An instruction as it was met in its stage."""

    stage: Stage
    base: Base
    instruction: Instruction
    arguments: tuple[tuple[Word, tuple[str, ...]], ...]
    """What the words that rules ask about come to: WORKDIR's, EXPOSE's, the local sources of COPY and ADD."""
    shell: bool
    """SHELL was given, here or in the base."""


@dataclass(frozen=True, slots=True)
class Subject:
    """All that a rule may know."""

    machinefile: Machinefile
    layout: Layout
    options: BuildOptions
    uses: tuple[Use, ...]
    """The instructions of the stages that were resolved, each stage's FROM first."""
    warnings: tuple[BuildWarning, ...]
    """What resolving warned of."""
    platforms: Mapping[BaseReference, Platform]
    """What the bases run on, where that is known."""
    ignored: Ignored | None = None

    @property
    def openings(self) -> tuple[Instruction, ...]:
        """Every FROM."""
        return tuple(each for each in self.machinefile.instructions if each.name == "FROM")


@dataclass(slots=True)
class Witness:
    """Notes how instructions are met while a file is resolved: the `visit` of machinefile.resolve."""

    uses: list[Use] = field(default_factory=list)

    def __call__(self, stage: Stage, base: Base, building: Building, instruction: Instruction) -> None:
        """Note one instruction."""
        arguments = tuple(_arguments(building, instruction))
        self.uses.append(Use(stage, base, instruction, arguments, bool(building.config.shell)))


def _arguments(building: Building, instruction: Instruction) -> list[tuple[Word, tuple[str, ...]]]:
    found = []
    for word in _words(instruction):
        try:
            expanded = expand(word.text, building.environment, building.escape)
        except ExpansionError:
            continue  # resolving says so
        found.append((word, expanded.words if instruction.name == "EXPOSE" else (expanded.text,)))
    if instruction.name == "ADD":
        return [(word, texts) for word, texts in found if not is_remote(texts[0])]
    return found


def _words(instruction: Instruction) -> tuple[Word, ...]:
    match instruction.name:
        case "WORKDIR" | "EXPOSE":
            return instruction.words
        case "COPY" | "ADD" if instruction.flag("from") is None:
            markers = {heredoc.marker for heredoc in instruction.heredocs}
            return tuple(word for word in instruction.words[:-1] if word.text not in markers)
        case _:
            return ()


def is_unknown(base: Base, platforms: Mapping[BaseReference, Platform]) -> bool:
    """Whether a stage stands on an image that nothing is known of."""
    return base.image is not None and base.image.reference != SCRATCH and base.image not in platforms
