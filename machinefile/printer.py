"""A parsed file back to text, in one normal way of writing: what it parses to is the same."""

from __future__ import annotations

import json

from machinefile.instructions import Form, Instruction, Machinefile, Pair


def to_text(machinefile: Machinefile) -> str:
    """Text that parses to the same instructions."""
    lines = [f"# {directive.name}={directive.value}\n" for directive in machinefile.directives]
    instructions = (_instruction(instruction, machinefile.escape) for instruction in machinefile.instructions)
    return "".join([*lines, *(text + "\n" for text in instructions)])


def _instruction(instruction: Instruction, escape: str) -> str:
    head = _head(instruction)
    if head.endswith(escape) and not head.endswith(escape * 2):
        head += f" {escape}"  # it ended the file, continued by nothing, and only there can a line end like that
    heredocs = (instruction.nested or instruction).heredocs
    return "".join([head, *(f"\n{doc.content}{doc.name}" for doc in heredocs)])


def _head(instruction: Instruction) -> str:
    parts = [instruction.name]
    parts += [f"--{flag.name}" if flag.value is None else f"--{flag.name}={flag.value}" for flag in instruction.flags]
    words = [word.text for word in instruction.words]
    if instruction.nested is not None:
        parts.append(_head(instruction.nested))
    elif instruction.form is Form.PAIRS:
        parts += map(_pair, instruction.pairs)
    elif instruction.form is Form.EXEC:
        opening = words[:1] if instruction.name == "HEALTHCHECK" else []
        parts += [*opening, json.dumps(words[len(opening) :])]
    else:
        if words and words[0].startswith("--"):
            parts.append("--")
        parts += words
    return " ".join(parts)


def _pair(pair: Pair) -> str:
    if pair.value is None:
        return pair.name
    return f"{pair.name} {pair.value}" if pair.old else f"{pair.name}={pair.value}"
