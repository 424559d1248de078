"""What a step was, in the words of a Machinefile, from the record that its key was made of."""

from __future__ import annotations

from collections.abc import Mapping

_LONGEST = 200
"""Characters: a heredoc has no end."""


def instruction_of(record: object) -> str:
    """One line; empty for what is no record."""
    match record:
        case {"operation": str(operation), "fields": {**fields}}:
            line = " ".join(_words(operation, {str(name): value for name, value in fields.items()}).split())
            return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
    return ""


def _words(operation: str, fields: Mapping[str, object]) -> str:
    match operation, fields:
        case "run", {"argv": [str(), "-c", str(script)]}:
            return f"RUN {script}"
        case "run", {"argv": [*argv]}:
            return "RUN " + " ".join(map(str, argv))
        case "copy", {"destination": str(destination)}:
            return f"COPY {_sources(fields)}{destination}"
        case "remote", {"destination": str(destination)}:
            return f"ADD {fields.get('name') or fields.get('kind')} {destination}"
        case "workdir", {"path": str(path)}:
            return f"WORKDIR {path}"
    return operation.upper()


def _sources(fields: Mapping[str, object]) -> str:
    """The first of the files that were copied."""
    match fields.get("sources") or fields.get("files") or fields.get("inline"):
        case [str(first), *more] | [[str(first), *_], *more]:
            return f"{first} … " if more else f"{first} "
    return ""
