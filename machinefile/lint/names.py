"""Rules about how things are called and written: stages, keywords, comments that describe."""

from __future__ import annotations

from collections.abc import Iterator

from machinefile.instructions import Instruction, Word
from machinefile.lint.rule import Hit
from machinefile.lint.subject import Subject

_RESERVED = ("context", "scratch")


def _named(subject: Subject) -> Iterator[tuple[Instruction, Word]]:
    for opening in subject.openings:
        if len(opening.words) == 3:
            yield opening, opening.words[2]


def stage_name_casing(subject: Subject) -> Iterator[Hit]:
    """StageNameCasing."""
    for opening, name in _named(subject):
        if name.text != name.text.lower():
            hint = f"write {name.text.lower()}"
            yield Hit(f"the stage name {name.text} should be lower case", opening.span_of(name), hint)


def from_as_casing(subject: Subject) -> Iterator[Hit]:
    """FromAsCasing. A FROM in mixed case is ConsistentInstructionCasing's business."""
    for opening, _ in _named(subject):
        word = opening.words[1]
        for fold in (str.lower, str.upper):
            if opening.written == fold(opening.written) and word.text != fold(word.text):
                message = f"{word.text} is not written in the same case as {opening.written}"
                yield Hit(message, opening.span_of(word), f"write {fold(word.text)}")


def duplicate_stage_name(subject: Subject) -> Iterator[Hit]:
    """DuplicateStageName."""
    seen: dict[str, int] = {}
    for opening, name in _named(subject):
        key = name.text.lower()
        if key in seen:
            message = f"the stage name {name.text} is taken already, by the stage in line {seen[key]}"
            yield Hit(message, opening.span_of(name))
        seen.setdefault(key, opening.first_line)


def reserved_stage_name(subject: Subject) -> Iterator[Hit]:
    """ReservedStageName."""
    for opening, name in _named(subject):
        if name.text.lower() in _RESERVED:
            message = f"{name.text} means something of its own and should not name a stage"
            yield Hit(message, opening.span_of(name))


def consistent_instruction_casing(subject: Subject) -> Iterator[Hit]:
    """ConsistentInstructionCasing. A draw is upper case's; as in BuildKit, ARGs before the first FROM don't count."""
    instructions = [each for stage in subject.layout.stages for each in (stage.opening, *stage.instructions)]
    lower = sum(each.written == each.written.lower() for each in instructions)
    upper = sum(each.written == each.written.upper() for each in instructions)
    fold, case = (str.lower, "lower") if lower > upper else (str.upper, "upper")
    for instruction in instructions:
        right = fold(instruction.written)
        if instruction.written != right:
            message = f"{instruction.written} is not written as most instructions of the file are, in {case} case"
            yield Hit(message, instruction.name_span, f"write {right}")


def invalid_definition_description(subject: Subject) -> Iterator[Hit]:
    """InvalidDefinitionDescription: the comment right above an ARG, or a FROM with a name, begins with that name."""
    for instruction in subject.machinefile.instructions:
        comments, names = instruction.line.comments, _defined(instruction)
        if comments and names and comments[-1].split(" ")[0] not in names:
            shown = names[0] if len(names) == 1 else "NAME"
            message = f"the comment above this {instruction.name} does not begin with {' or '.join(names)}"
            hint = f"write # {shown} and what it is for, or put an empty line below the comment"
            yield Hit(message, instruction.span, hint)


def _defined(instruction: Instruction) -> list[str]:
    if instruction.name == "ARG":
        return [pair.name for pair in instruction.pairs]
    if instruction.name == "FROM" and len(instruction.words) == 3:
        return [instruction.words[2].text.lower()]
    return []
