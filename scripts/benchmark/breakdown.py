"""What the time of a build with one RUN went into, out of what `mbuild --profile` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark.measure import BenchError

REST = "the rest"
_PARTS = (
    *("start-up", "read", "import", "open the store", "look up bases", "resolve", "plan"),
    *("fetch", "disks", "room", "template", "start", "restore", "attach", "run", "diff", "stop", "take", "clean up"),
    *("content key", "keep", "finish", "remember", "close the store"),
)
"""The spans that are told, in the order of a build."""
_NEEDED = frozenset(("start-up", "plan", "restore", "run", "take", "close the store"))
_NOT_WAITED_FOR = "restore ahead"


def breakdown(trace: Path) -> dict[str, float]:
    """Seconds by span, what lies within another one that is told counted with that; and the rest, up to the end.

    Raises BenchError for a trace without what a RUN must have.
    """
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X"]
    found = dict.fromkeys(_PARTS, 0.0)
    ends: dict[int, float] = {}
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        name, row = event["name"], event["tid"]
        if (name not in found and name != _NOT_WAITED_FOR) or _end(event) <= ends.get(row, 0.0):
            continue
        ends[row] = _end(event)
        if name in found:
            found[name] += event["dur"] / 1e6
    told = {event["name"] for event in events}
    if not told >= _NEEDED:
        raise BenchError(f"{trace} says nothing of: {', '.join(sorted(_NEEDED - told))}")
    whole = max(map(_end, events)) / 1e6
    return {**found, REST: max(0.0, whole - sum(found.values()))}


def _end(event: dict[str, Any]) -> float:
    return float(event["ts"]) + float(event["dur"])
