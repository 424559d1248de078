"""The single lines that the terminal's display and the plain one share."""

from __future__ import annotations

from engine.events import BuildEnded, NetworkReached, WarningRaised
from mbuild.progress.text import label
from mbuild.progress.units import duration

_REACHED_SHOWN = 20
"""Lines about one step's network; the egress log has them all."""


def reached(event: NetworkReached) -> list[str]:
    """What a step reached, a line each; of names that were looked up only those denied."""
    lines = dict.fromkeys(
        f"{'denied' if entry.denied else 'reached'} {label(str(entry))}"
        for entry in event.entries
        if entry.denied or entry.protocol != "dns"
    )
    more = max(0, len(lines) - _REACHED_SHOWN) + event.more
    return [*list(lines)[:_REACHED_SHOWN], *([f"reached for {more} more"] if more else [])]


def summary(event: BuildEnded) -> str:
    """How a build that went well ended."""
    names = f" as {', '.join(map(label, event.names))}" if event.names else ""
    return f"built {label(event.digest)}{names} in {duration(event.seconds)}: {event.hit} cached, {event.run} run"


def warning(event: WarningRaised) -> str:
    """A warning with its place and its code."""
    place = f"{label(event.location)}: " if event.location else ""
    return f"WARNING: {place}{label(event.message)} ({label(event.code)})"
