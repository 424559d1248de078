"""Why a step hits or misses."""

from __future__ import annotations

from enum import Enum

from engine.explain.differences import Difference
from engine.plan import PlannedStep
from machinefile.values import dataclass


class Cause(Enum):
    """What it comes down to."""

    HIT = "hit"
    NEVER_BUILT = "never-built"
    """No earlier result is anything like it."""
    CHANGED = "changed"
    """It differs from what was built before."""
    FOLLOWS = "follows"
    """It is as it was; what it stands on, or reads from, has to be built."""
    EVICTED = "evicted"
    """It was built just so, and the result is gone from the store."""
    REFUSED = "refused"
    """A result that may be there is not to be used: --no-cache and the like."""
    NOT_PULLED = "not-pulled"
    """A base whose layers are not in the store."""
    OTHER = "other"
    """What the plan says."""


class Link(Enum):
    """What is new about a step below."""

    TO_BUILD = "to-build"
    """It misses itself."""
    ADDED = "added"
    """Steps stand in between that were not there."""
    REMOVED = "removed"
    """Steps that stood in between are gone."""
    BASE = "base"
    """The base is another image."""
    CHANGED = "changed"
    """It is another step, or was made of something else."""
    UNKNOWN = "unknown"
    """It is another; the record of the former one is gone."""


@dataclass(frozen=True, slots=True)
class Below:
    """A step that the one in question stands on or reads from."""

    link: Link
    step: str
    """Its id; empty where the former step has no successor."""
    is_parent: bool
    now: str = ""
    """The instruction of that step."""
    steps: tuple[str, ...] = ()
    """ADDED: the ids of the new steps; REMOVED: the instructions of the former ones."""
    was: str = ""
    """BASE, CHANGED: the former instruction; may not be known."""
    old: str = ""
    """BASE: the former digest."""
    new: str = ""
    """BASE: the digest now."""
    differences: tuple[Difference, ...] = ()
    """CHANGED: between what it was made of and what it is made of."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """The earlier build that a step is compared with."""

    key: str
    instruction: str
    """Empty where it is not known."""
    seconds: float | None
    created: float | None
    """In seconds since 1970."""
    source: str = ""
    """Where its record comes from; empty for the store."""
    same_place: bool = True
    """Whether it was this step, in this file; else it is only the most similar one that is known."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known about why."""

    planned: PlannedStep
    cause: Cause
    differences: tuple[Difference, ...] = ()
    """Its own: of the steps below, `below` tells."""
    below: tuple[Below, ...] = ()
    nearest: Nearest | None = None
    roots: tuple[str, ...] = ()
    """The steps in which it begins: the step itself, or the lowest of those that it follows."""
    lost: tuple[str, ...] = ()
    """EVICTED: the digests of the layers that are gone; none where the result itself is."""
