"""The single lines that the terminal's display and the plain one share."""

from __future__ import annotations

from engine.events import BuildEnded, WarningRaised
from mbuild.progress.text import label
from mbuild.progress.units import duration


def summary(event: BuildEnded) -> str:
    """How a build that went well ended."""
    names = f" as {', '.join(map(label, event.names))}" if event.names else ""
    return f"built {label(event.digest)}{names} in {duration(event.seconds)}: {event.hit} cached, {event.run} run"


def warning(event: WarningRaised) -> str:
    """A warning with its place and its code."""
    place = f"{label(event.location)}: " if event.location else ""
    return f"WARNING: {place}{label(event.message)} ({label(event.code)})"
