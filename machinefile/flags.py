"""Values of flags, as instructions read them."""

from __future__ import annotations

import re

from machinefile.instructions import Flag, Instruction

_QUOTED = re.compile(r"""\\(.)|["']""", re.DOTALL)


def flag_value(flag: Flag) -> str:
    """The value without its quotes and escapes. The backslash escapes here, whatever the escape directive says."""
    value = flag.value or ""
    if not any(character in value for character in "\"'\\"):
        return value
    return _QUOTED.sub(lambda matched: matched[1] or "", value)


def is_on(instruction: Instruction, name: str, default: bool = False) -> bool:
    """Whether a switch is on: `--link` or `--link=true`."""
    flag = instruction.flag(name)
    if flag is None:
        return default
    return flag.value is None or flag_value(flag).lower() == "true"
