"""When an image and the lines of its history were made, as they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime

from cache.results import StepResult
from engine.bases import Base
from engine.layers.entry import NORMAL_TIME
from engine.layers.times import bounded
from machinefile.steps import BuildGraph
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Moments:
    """Seconds since 1970, 0 to MAX_TIME."""

    created: int = NORMAL_TIME
    """The image."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Its own lines of history, by their steps; of those that are not in it the time of the image."""

    def of(self, step_id: str) -> int:
        """When the line of a step was made."""
        return self.lines.get(step_id, self.created)


NORMAL = Moments()


def real_moments(
    graph: BuildGraph, base: Base, results: Mapping[str, StepResult], latest: int | None, ahead: int = 0
) -> Moments:
    """When the steps were made that the image is of, whichever build that was, and `ahead` seconds; what is later than
    `latest` says that.

    A line without a file system of its own has the time of the one before it, or else of the first that has one, as
    BuildKit does it. An image that adds none to its base has the base's time.
    """
    known = {
        step_id: bounded(round(results[step_id].created) + ahead)
        for step_id in graph.history
        if step_id in results and results[step_id].created > 0
    }
    if not known:
        return Moments(_until(_created(base), latest))
    last = known[next(step_id for step_id in graph.history if step_id in known)]
    lines = {}
    for step_id in graph.history:
        last = known.get(step_id, last)
        lines[step_id] = _until(last, latest)
    return Moments(max(lines.values()), lines)


def _until(seconds: int, latest: int | None) -> int:
    return seconds if latest is None else min(seconds, latest)


def _created(base: Base) -> int:
    said = base.configuration.created if base.configuration is not None else ""
    try:
        found = datetime.fromisoformat(said)
        return bounded((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return NORMAL_TIME
