"""`mbuild cache`: what the store holds, and what may go."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Sequence

from machinefile.errors import UsageError

_COMMANDS = {
    "du": "what the store holds, and how much of the disk that takes",
    "prune": "remove what nothing needs",
    "check": "look for damage",
}


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Hand on to the command that is named."""
    name = next(iter(arguments), "")
    if name in ("-h", "--help"):
        lines = (f"  mbuild cache {command:<6} {text}" for command, text in _COMMANDS.items())
        print("usage: mbuild cache COMMAND [OPTIONS]", "", *lines, sep="\n", file=sys.stdout)
        return 0
    if name not in _COMMANDS:
        raise UsageError(
            f"mbuild cache: there is no command {name!r}" if name else "mbuild cache: which command?",
            code="usage",
            hint="there are " + ", ".join(_COMMANDS),
        )
    command: Callable[[Sequence[str], threading.Event], int]
    command = importlib.import_module(f"mbuild.commands.cache{name}").main
    return command(arguments[1:], cancelled)
