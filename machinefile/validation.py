"""What can be wrong with an instruction's arguments before anything is substituted."""

from __future__ import annotations

import re
from collections.abc import Callable

from machinefile.durations import parse_duration
from machinefile.errors import Problem
from machinefile.instructions import Flag, Form, Instruction
from machinefile.suggest import did_you_mean
from machinefile.vocabulary import INSTRUCTIONS, FlagKind

Problems = list[Problem]

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


def check_instruction(instruction: Instruction, problems: Problems) -> None:
    """Note every mistake in an instruction's flags and arguments."""
    _check_flags(instruction, problems)
    check = _CHECKS.get(instruction.name)
    if check is not None:
        check(instruction, problems)


def _check_flags(instruction: Instruction, problems: Problems) -> None:
    vocabulary = INSTRUCTIONS[instruction.name]
    seen = set()
    for flag in instruction.flags:
        kind = vocabulary.flag_kind(flag.name)
        if kind is None:
            problems.append(_unknown_flag(instruction, flag))
            continue
        if flag.name in seen and kind is not FlagKind.LIST:
            _note(problems, instruction, flag, "flag-twice", f"--{flag.name} is given twice", "keep one of them")
        seen.add(flag.name)
        _check_flag_value(instruction, flag, kind, problems)


def _check_flag_value(instruction: Instruction, flag: Flag, kind: FlagKind, problems: Problems) -> None:
    if kind is FlagKind.SWITCH:
        if flag.value is not None and flag.value.strip("\"'").lower() not in ("true", "false"):
            message = f"--{flag.name} is true or false, not {flag.value or 'empty'}"
            _note(problems, instruction, flag, "bad-flag-value", message, f"write --{flag.name} alone to switch it on")
    elif flag.value is None:
        message = f"--{flag.name} needs a value"
        _note(problems, instruction, flag, "missing-flag-value", message, f"write --{flag.name}=VALUE")


def _unknown_flag(instruction: Instruction, flag: Flag) -> Problem:
    known = [f"--{name}" for name, _ in INSTRUCTIONS[instruction.name].flags]
    otherwise = f"{instruction.name} takes {', '.join(known)}" if known else f"{instruction.name} takes no flags"
    message = f"{instruction.name} has no flag --{flag.name}"
    hint = did_you_mean(f"--{flag.name}", known, otherwise)
    return Problem(message, "unknown-flag", instruction.span_of(flag), hint)


def _note(problems: Problems, instruction: Instruction, flag: Flag, code: str, message: str, hint: str) -> None:
    problems.append(Problem(message, code, instruction.span_of(flag), hint))


def _missing(instruction: Instruction, problems: Problems, message: str, hint: str) -> None:
    problems.append(Problem(message, "missing-argument", instruction.name_span, hint))


def _check_from(instruction: Instruction, problems: Problems) -> None:
    words = instruction.words
    if not words:
        _missing(instruction, problems, "FROM needs an image", "for example FROM debian:bookworm-slim")
        return
    if len(words) == 1:
        return
    if len(words) != 3 or words[1].text.upper() != "AS":
        word = words[1]
        hint = "write FROM IMAGE, or FROM IMAGE AS NAME"
        if len(words) > 3 and words[1].text.upper() == "AS":
            word = words[3]
        message = f"FROM does not expect {word.text[:60]} here"
        problems.append(Problem(message, "bad-from", instruction.span_of(word), hint))
        return
    if not _STAGE_NAME.fullmatch(words[2].text.lower()):
        message = f"{words[2].text[:60]} can't name a stage"
        hint = "a name begins with a letter and has letters, digits, - _ and ."
        problems.append(Problem(message, "bad-stage-name", instruction.span_of(words[2]), hint))


def _check_sources(instruction: Instruction, problems: Problems) -> None:
    name, words = instruction.name, instruction.words
    if not words:
        _missing(instruction, problems, f"{name} needs a source and a destination", f"for example {name} src/ /app/")
    elif len(words) == 1:
        message = f"{name} needs a destination after {words[0].text[:60]}"
        hint = f"for example {name} {words[0].text[:60]} ."
        problems.append(Problem(message, "missing-destination", instruction.span_of(words[0]), hint))
    elif any(heredoc.marker == words[-1].text for heredoc in instruction.heredocs):
        message = "a heredoc can't be the destination"
        problems.append(Problem(message, "heredoc-destination", instruction.span_of(words[-1]), "name a path after it"))


def _check_pairs(instruction: Instruction, problems: Problems) -> None:
    if not instruction.pairs:
        _missing(instruction, problems, f"{instruction.name} needs a name", f"for example {instruction.name} VERSION=1")
    for pair in instruction.pairs:
        if not pair.name.strip("\"'"):
            message = f"{instruction.name} has a value without a name"
            problems.append(Problem(message, "missing-name", instruction.span_of(pair), "write name=value"))


def _check_command(instruction: Instruction, problems: Problems) -> None:
    if instruction.form is not Form.EXEC and not instruction.words:
        name = instruction.name
        _missing(instruction, problems, f"{name} needs a command", f'for example {name} ["program", "argument"]')
    elif instruction.name == "RUN" and not instruction.words:
        _missing(instruction, problems, "RUN needs a command", "the array is empty")


def _check_shell(instruction: Instruction, problems: Problems) -> None:
    if instruction.form is not Form.EXEC:
        message = "SHELL takes a JSON array"
        hint = 'for example SHELL ["/bin/bash", "-c"]'
        problems.append(Problem(message, "not-exec-form", instruction.span, hint))
    elif not instruction.words:
        _missing(instruction, problems, "SHELL needs a program", 'for example SHELL ["/bin/bash", "-c"]')


def _check_one(instruction: Instruction, problems: Problems) -> None:
    if not instruction.words:
        example = {"USER": "USER nobody", "WORKDIR": "WORKDIR /app", "STOPSIGNAL": "STOPSIGNAL SIGTERM"}
        hint = f"for example {example[instruction.name]}" if instruction.name in example else ""
        _missing(instruction, problems, f"{instruction.name} needs an argument", hint)


def _check_some(instruction: Instruction, problems: Problems) -> None:
    if not instruction.words:
        example = {"EXPOSE": "EXPOSE 80/tcp", "VOLUME": "VOLUME /data", "MACHINE": "MACHINE cpus=2 memory=2G"}
        hint = f"for example {example[instruction.name]}"
        _missing(instruction, problems, f"{instruction.name} needs an argument", hint)
    elif instruction.name == "VOLUME":
        for word in instruction.words:
            if not word.text.strip():
                message = "a VOLUME can't be empty"
                problems.append(Problem(message, "empty-volume", instruction.span_of(word), "name an absolute path"))


def _check_health(instruction: Instruction, problems: Problems) -> None:
    words = instruction.words
    if not words:
        hint = "for example HEALTHCHECK CMD curl -f http://localhost/"
        _missing(instruction, problems, "HEALTHCHECK needs CMD or NONE", hint)
        return
    kind = words[0].text.upper()
    if kind == "NONE":
        if len(words) > 1:
            span = instruction.span_of(words[1])
            problems.append(Problem("HEALTHCHECK NONE takes nothing more", "extra-argument", span))
    elif kind != "CMD":
        message = f"HEALTHCHECK knows CMD and NONE, not {words[0].text[:60]}"
        hint = did_you_mean(kind, ("CMD", "NONE"), "write CMD before the command")
        problems.append(Problem(message, "bad-healthcheck", instruction.span_of(words[0]), hint))
    elif len(words) < 2:
        hint = "for example HEALTHCHECK CMD curl -f http://localhost/"
        _missing(instruction, problems, "HEALTHCHECK CMD needs a command", hint)
    _check_health_flags(instruction, problems)


def _check_health_flags(instruction: Instruction, problems: Problems) -> None:
    for flag in instruction.flags:
        value = (flag.value or "").strip("\"'")
        if not value:
            continue
        if flag.name == "retries":
            if not re.fullmatch(r"\+?\d+", value):
                message = f"--retries is a number, 0 or more, not {value}"
                _note(problems, instruction, flag, "bad-flag-value", message, "for example --retries=3")
        elif INSTRUCTIONS["HEALTHCHECK"].flag_kind(flag.name) is not None:
            _check_duration(instruction, flag, value, problems)


def _check_duration(instruction: Instruction, flag: Flag, value: str, problems: Problems) -> None:
    try:
        duration = parse_duration(value)
    except ValueError:
        message = f"--{flag.name} is a time such as 30s or 1m30s, not {value}"
        _note(problems, instruction, flag, "bad-duration", message, "units are ns, us, ms, s, m and h")
        return
    if duration < 0 or 0 < duration < 1_000_000:
        message = f"--{flag.name} can't be less than 1ms"
        _note(problems, instruction, flag, "bad-duration", message, "0 means: as inherited")


def _check_onbuild(instruction: Instruction, problems: Problems) -> None:
    if instruction.nested is not None:
        check_instruction(instruction.nested, problems)


def _check_snapshot(instruction: Instruction, problems: Problems) -> None:
    if instruction.words:
        span = instruction.span_of(instruction.words[0])
        problems.append(Problem("SNAPSHOT takes flags only", "extra-argument", span, "for example --ready=tcp:8080"))


_CHECKS: dict[str, Callable[[Instruction, Problems], None]] = {
    "FROM": _check_from,
    "COPY": _check_sources,
    "ADD": _check_sources,
    "ENV": _check_pairs,
    "LABEL": _check_pairs,
    "ARG": _check_pairs,
    "RUN": _check_command,
    "CMD": _check_command,
    "ENTRYPOINT": _check_command,
    "SHELL": _check_shell,
    "USER": _check_one,
    "WORKDIR": _check_one,
    "STOPSIGNAL": _check_one,
    "MAINTAINER": _check_one,
    "EXPOSE": _check_some,
    "VOLUME": _check_some,
    "MACHINE": _check_some,
    "HEALTHCHECK": _check_health,
    "ONBUILD": _check_onbuild,
    "SNAPSHOT": _check_snapshot,
}
