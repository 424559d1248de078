"""Progress for programs: one JSON object a line, one line an event."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from engine.events import Event
from mbuild.progress.display import Display
from mbuild.progress.stream import Screen


class RawJson(Display):
    """`{"type": "step_output", "time": 1700000000.123, "step": ..., "data": ...}`: the event's class in snake case,
    when it was shown in seconds since 1970, and the event's fields; bytes in base64. ASCII only."""

    def __init__(self, screen: Screen, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._screen = screen
        self._clock = clock

    def show(self, event: Event) -> None:
        """Write the event's line."""
        fields = {field.name: _plain(getattr(event, field.name)) for field in dataclasses.fields(event)}
        record = {"type": _name(event), "time": round(self._clock(), 3), **fields}
        self._screen.write(json.dumps(record) + "\n")
        self._screen.flush()


def _name(event: Event) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()


def _plain(value: object) -> Any:
    """The same in JSON's types."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case Enum():
            return value.value
        case tuple():
            return [_plain(part) for part in value]
        case _ if dataclasses.is_dataclass(value):
            return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            return value
