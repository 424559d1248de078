"""Rules about the instructions of a stage."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from machinefile.instructions import Form, Instruction
from machinefile.lint.rule import Hit
from machinefile.lint.subject import Subject
from machinefile.source import Span

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_HARMLESS = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_ONCE = ("CMD", "ENTRYPOINT", "HEALTHCHECK")


def no_empty_continuation(subject: Subject) -> Iterator[Hit]:
    """NoEmptyContinuation: once an instruction, at the first of its empty lines."""
    for instruction in subject.machinefile.instructions:
        if instruction.line.empty_continuations:
            number = instruction.line.empty_continuations[0]
            width = max(1, len(subject.machinefile.source.line(number)))
            span = Span(subject.machinefile.source, number, 1, number, width + 1)
            yield Hit(f"an empty line stands inside {instruction.name}", span)


def maintainer_deprecated(subject: Subject) -> Iterator[Hit]:
    """MaintainerDeprecated."""
    for instruction in subject.machinefile.instructions:
        if instruction.name == "MAINTAINER":
            yield Hit("MAINTAINER is deprecated, a label does its work", instruction.span)


def json_args_recommended(subject: Subject) -> Iterator[Hit]:
    """JSONArgsRecommended. Who gives a SHELL means it."""
    for use in subject.uses:
        instruction = use.instruction
        if instruction.name in ("CMD", "ENTRYPOINT") and instruction.form is Form.SHELL and not use.shell:
            message = f"a shell runs this {instruction.name}, and signals to the container do not reach the command"
            yield Hit(message, instruction.span)


def multiple_instructions_disallowed(subject: Subject) -> Iterator[Hit]:
    """MultipleInstructionsDisallowed: the earlier ones are found, since they do nothing."""
    last: dict[tuple[int, str], Instruction] = {}
    for use in subject.uses:
        instruction, key = use.instruction, (use.stage.index, use.instruction.name)
        if instruction.name not in _ONCE:
            continue
        earlier = last.get(key)
        if earlier is not None:
            message = f"this {instruction.name} does nothing: the stage has another in line {instruction.first_line}"
            yield Hit(message, earlier.span)
        last[key] = instruction


def legacy_key_value_format(subject: Subject) -> Iterator[Hit]:
    """LegacyKeyValueFormat."""
    for use in subject.uses:
        for pair in use.instruction.pairs:
            if pair.old:
                name = use.instruction.name
                message = f"{name} is written in the old way, without ="
                yield Hit(message, use.instruction.span_of(pair), f"write {name} {pair.name}=VALUE")


def sounds_secret(name: str) -> bool:
    """Whether the value of a variable of that name is likely to be a secret."""
    return bool(_SECRET.search(name)) and not _HARMLESS.search(name)


def secrets_used_in_arg_or_env(subject: Subject) -> Iterator[Hit]:
    """SecretsUsedInArgOrEnv, by the name."""
    for use in subject.uses:
        if use.instruction.name not in ("ARG", "ENV"):
            continue
        for pair in use.instruction.pairs:
            name = pair.name.strip("\"'")
            if sounds_secret(name):
                message = f"{use.instruction.name} {name} sounds secret, and everyone who has the image can read it"
                yield Hit(message, use.instruction.span_of(pair))


def undefined_var(subject: Subject) -> Iterator[Hit]:
    """UndefinedVar."""
    for warning in subject.warnings:
        if warning.code == "UndefinedVar" and warning.span is not None:
            yield Hit(warning.message, warning.span, warning.hint)


def workdir_relative_path(subject: Subject) -> Iterator[Hit]:
    """WorkdirRelativePath: the first WORKDIR, in a stage and those below it, is relative."""
    settled: set[int] = set()
    for use in subject.uses:
        stage = use.stage.index
        if use.instruction is use.stage.opening:
            if use.base.parent is not None and use.base.parent.index in settled:
                settled.add(stage)
            continue
        if use.instruction.name != "WORKDIR" or not use.arguments:
            continue
        word, (path,) = use.arguments[0]
        if stage not in settled and not path.startswith("/"):
            message = f"WORKDIR {path} begins wherever the base image's ends"
            yield Hit(message, use.instruction.span_of(word))
        settled.add(stage)


def copy_ignored_file(subject: Subject) -> Iterator[Hit]:
    """CopyIgnoredFile."""
    for use in subject.uses:
        if subject.ignored is None or use.instruction.name not in ("COPY", "ADD"):
            continue
        for word, (source,) in use.arguments:
            path = posixpath.normpath(source).lstrip("/")
            if path not in ("", ".") and subject.ignored(path):
                message = f"{use.instruction.name} takes {path}, and .dockerignore leaves it out"
                yield Hit(message, use.instruction.span_of(word))
