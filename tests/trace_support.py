"""Traces in Chrome's Trace Event Format, looked at as strictly as who shows them does at most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROUNDED = 0.2
"""Microseconds by which rounded times may be off."""


@dataclass(frozen=True)
class Event:
    """A complete event."""

    name: str
    category: str
    row: int
    begun: float
    ended: float
    args: dict[str, Any]

    def holds(self, other: Event) -> bool:
        """Whether another is part of it."""
        same = self.row == other.row
        return same and self.begun - _ROUNDED <= other.begun and other.ended <= self.ended + _ROUNDED


def read_trace(path: Path) -> tuple[list[Event], dict[int, str]]:
    """The events, and the names of the rows. What the format does not allow, and spans that overlap in a row, fail."""
    document = json.loads(path.read_text())
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    events, names = [], {}
    pids = set()
    for one in document["traceEvents"]:
        pids.add(one["pid"])
        assert isinstance(one["tid"], int)
        assert isinstance(one["name"], str)
        if one["ph"] == "M":
            assert set(one) == {"name", "ph", "pid", "tid", "args"}
            assert one["name"] in ("process_name", "thread_name")
            if one["name"] == "thread_name":
                names[one["tid"]] = one["args"]["name"]
            continue
        assert set(one) == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        assert one["ph"] == "X"
        assert one["ts"] >= 0
        assert one["dur"] >= 0
        assert all(isinstance(value, (str, int, float, bool)) for value in one["args"].values())
        events.append(Event(one["name"], one["cat"], one["tid"], one["ts"], one["ts"] + one["dur"], one["args"]))
    assert len(pids) == 1
    assert {event.row for event in events} <= set(names)
    assert len(set(names.values())) == len(names)
    _check_nesting(events)
    return events, names


def _check_nesting(events: Sequence[Event]) -> None:
    for row in {event.row for event in events}:
        inside: list[Event] = []
        for event in (event for event in events if event.row == row):
            while inside and inside[-1].ended <= event.begun + _ROUNDED:
                inside.pop()
            assert not inside or inside[-1].holds(event), f"{inside[-1]} and {event} overlap"
            inside.append(event)
