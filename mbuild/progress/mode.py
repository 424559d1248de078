"""How progress is shown: the values of --progress."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TextIO


class ProgressMode(Enum):
    """The values of --progress, as docker build has them."""

    AUTO = "auto"
    TTY = "tty"
    PLAIN = "plain"
    QUIET = "quiet"
    RAWJSON = "rawjson"


def resolve(mode: ProgressMode, stream: TextIO, environment: Mapping[str, str]) -> ProgressMode:
    """What AUTO means here: TTY on a terminal that can move its cursor, else PLAIN. Others stay as they are."""
    if mode is not ProgressMode.AUTO:
        return mode
    moves = environment.get("TERM", "").lower() not in ("", "dumb", "unknown")
    return ProgressMode.TTY if moves and stream.isatty() else ProgressMode.PLAIN
