"""The instructions that change only the image's configuration."""

from __future__ import annotations

import re

from machinefile.building import Building
from machinefile.durations import parse_duration
from machinefile.flags import flag_value
from machinefile.goformat import healthcheck, plain_list, quoted_list
from machinefile.imageconfig import Healthcheck
from machinefile.instructions import Form, Instruction
from machinefile.ports import parse_ports
from machinefile.signals import is_signal
from machinefile.steps import Metadata


def resolve_env(building: Building, instruction: Instruction) -> None:
    """ENV: every pair of a line sees the environment from before the line."""
    pairs = _expand_pairs(building, instruction)
    for name, value in pairs:
        building.set_environment(name, value)
    _add(building, instruction, [f"{name}={value}" for name, value in pairs])


def resolve_label(building: Building, instruction: Instruction) -> None:
    """LABEL."""
    pairs = _expand_pairs(building, instruction)
    building.configure(labels=tuple({**dict(building.config.labels), **dict(pairs)}.items()))
    _add(building, instruction, [f"{name}={value}" for name, value in pairs])


def _expand_pairs(building: Building, instruction: Instruction) -> list[tuple[str, str]]:
    found = []
    for pair in instruction.pairs:
        name = building.expand(instruction, pair.name, pair).text
        if not name:
            raise building.fail(instruction, f"{instruction.name} has a value without a name", "missing-name", "", pair)
        found.append((name, building.expand(instruction, pair.value or "", pair).text))
    return found


def resolve_arg(building: Building, instruction: Instruction) -> None:
    """ARG: a --build-arg wins over the default, and the default over the global scope. Later ones see earlier ones."""
    shown = []
    for pair in instruction.pairs:
        value = building.arguments.given.get(pair.name)
        if value is None and pair.value is not None:
            value = building.expand(instruction, pair.value, pair).text
        elif value is None:
            value = building.arguments.everywhere.get(pair.name)
        if value is not None:
            building.environment[pair.name] = value
        building.declared.append((pair.name, value))
        shown.append(pair.name if value is None else f"{pair.name}={value}")
    _add(building, instruction, shown)


def resolve_cmd(building: Building, instruction: Instruction) -> None:
    """CMD."""
    words = _command(building, instruction)
    building.configure(cmd=words, args_escaped=True)
    building.cmd_given = True
    building.add(instruction, Metadata("CMD", words), _shown(instruction), f"CMD {quoted_list(words)}")


def resolve_entrypoint(building: Building, instruction: Instruction) -> None:
    """ENTRYPOINT: drops a CMD that comes from the base."""
    words = _command(building, instruction)
    building.configure(entrypoint=words or None)
    if not building.cmd_given:
        building.configure(cmd=None)
    building.add(instruction, Metadata("ENTRYPOINT", words), _shown(instruction), f"ENTRYPOINT {quoted_list(words)}")


def _command(building: Building, instruction: Instruction) -> tuple[str, ...]:
    words = tuple(word.text for word in instruction.words)
    return words if instruction.form is Form.EXEC else (*building.shell, *words)


def _shown(instruction: Instruction) -> str:
    words = [word.text for word in instruction.words]
    return f"{instruction.name} {quoted_list(words) if instruction.form is Form.EXEC else ' '.join(words)}"


def resolve_shell(building: Building, instruction: Instruction) -> None:
    """SHELL."""
    words = tuple(word.text for word in instruction.words)
    building.configure(shell=words)
    building.add(instruction, Metadata("SHELL", words), _shown(instruction), f"SHELL {plain_list(words)}")


def resolve_user(building: Building, instruction: Instruction) -> None:
    """USER."""
    user = building.word(instruction, instruction.words[0])
    building.configure(user=user)
    _add(building, instruction, [user])


def resolve_stopsignal(building: Building, instruction: Instruction) -> None:
    """STOPSIGNAL."""
    signal = building.word(instruction, instruction.words[0])
    if not is_signal(signal):
        hint = "for example SIGTERM, SIGINT or 9"
        raise building.fail(
            instruction, f"{signal or 'nothing'} is not a signal", "bad-signal", hint, instruction.words[0]
        )
    building.configure(stop_signal=signal)
    _add(building, instruction, [signal])


def resolve_maintainer(building: Building, instruction: Instruction) -> None:
    """MAINTAINER: nothing is replaced in it."""
    building.author = instruction.words[0].text
    _add(building, instruction, [building.author])


def resolve_expose(building: Building, instruction: Instruction) -> None:
    """EXPOSE."""
    found: list[str] = []
    for word in sorted(instruction.words, key=lambda word: word.text):
        for text in building.expand(instruction, word.text, word).words:
            try:
                found.extend(parse_ports(text))
            except ValueError as error:
                hint = "for example 80, 53/udp or 8000-8005/tcp"
                raise building.fail(instruction, f"EXPOSE {text}: {error}", "bad-port", hint, word) from None
    building.configure(exposed_ports=tuple(sorted({*building.config.exposed_ports, *found})))
    _add_list(building, instruction, found)


def resolve_volume(building: Building, instruction: Instruction) -> None:
    """VOLUME."""
    found = []
    for word in instruction.words:
        path = building.expand(instruction, word.text.strip(), word).text
        if not path:
            hint = "name an absolute path"
            raise building.fail(instruction, "a VOLUME can't be empty", "empty-volume", hint, word)
        found.append(path)
    building.configure(volumes=tuple(sorted({*building.config.volumes, *found})))
    _add_list(building, instruction, found)


def resolve_healthcheck(building: Building, instruction: Instruction) -> None:
    """HEALTHCHECK."""
    kind, *command = (word.text for word in instruction.words)
    if kind.upper() == "NONE":
        check = Healthcheck(("NONE",))
    else:
        test = ("CMD" if instruction.form is Form.EXEC else "CMD-SHELL", *command)
        check = Healthcheck(
            test,
            interval=_duration(instruction, "interval"),
            timeout=_duration(instruction, "timeout"),
            start_period=_duration(instruction, "start-period"),
            start_interval=_duration(instruction, "start-interval"),
            retries=_retries(instruction),
        )
    building.configure(healthcheck=check)
    created_by = f"HEALTHCHECK {healthcheck(check)}"
    building.add(instruction, Metadata("HEALTHCHECK", (created_by,)), _shown(instruction), created_by)


def _duration(instruction: Instruction, name: str) -> int:
    flag = instruction.flag(name)
    value = flag_value(flag) if flag is not None else ""
    return parse_duration(value) if value else 0


def _retries(instruction: Instruction) -> int:
    flag = instruction.flag("retries")
    value = flag_value(flag) if flag is not None else ""
    return int(value) if value else 0


def resolve_onbuild(building: Building, instruction: Instruction) -> None:
    """ONBUILD: kept as it was written, for the stage or image that is built from this one. It leaves no history."""
    nested = instruction.nested
    if nested is None:
        return
    trigger = instruction.line.text[nested.start :].strip()
    for heredoc in nested.heredocs:
        trigger += f"\n{heredoc.content}{heredoc.name}"
    building.configure(on_build=(*building.config.on_build, trigger))
    building.add(instruction, Metadata("ONBUILD", (trigger,)), f"ONBUILD {re.split(chr(10), trigger)[0]}", "")


def _add(building: Building, instruction: Instruction, shown: list[str]) -> None:
    text = " ".join([instruction.name, *shown])
    building.add(instruction, Metadata(instruction.name, tuple(shown)), text, text)


def _add_list(building: Building, instruction: Instruction, shown: list[str]) -> None:
    text = " ".join([instruction.name, *shown])
    created_by = f"{instruction.name} {plain_list(shown)}"
    building.add(instruction, Metadata(instruction.name, tuple(shown)), text, created_by)
