"""What `mbuild parse --format json` prints."""

from __future__ import annotations

from typing import Any

from machinefile.instructions import Form, Instruction, Machinefile


def to_json(machinefile: Machinefile) -> dict[str, Any]:
    """A parsed file as plain data: nothing substituted, quotes as written. The shape is documented and stable."""
    return {
        "directives": {directive.name: directive.value for directive in machinefile.directives},
        "instructions": [_instruction(instruction) for instruction in machinefile.instructions],
    }


def _instruction(instruction: Instruction) -> dict[str, Any]:
    form, arguments = _arguments(instruction)
    return {
        "name": instruction.name,
        "line": instruction.first_line,
        "end_line": instruction.end_line,
        "form": form.value,
        "args": arguments,
        "flags": [[flag.name, flag.value] for flag in instruction.flags],
        "heredocs": [
            {"name": doc.name, "expand": doc.expand, "chomp": doc.chomp, "content": doc.content}
            for doc in instruction.heredocs
        ],
    }


def _arguments(instruction: Instruction) -> tuple[Form, list[Any]]:
    """The form and the arguments. An ONBUILD has the form of what is nested in it."""
    if instruction.nested is not None:
        nested = _instruction(instruction.nested)
        return Form(nested["form"]), [nested]
    if instruction.form is Form.PAIRS:
        return Form.PAIRS, [[pair.name, pair.value] for pair in instruction.pairs]
    words = [word.text for word in instruction.words]
    if instruction.name == "HEALTHCHECK" and instruction.form is not Form.WORDS:
        words = words[1:]  # CMD: the form says that there is a command
    return instruction.form, words
