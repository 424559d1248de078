"""What is wanted, as data, and whether it is held."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from benchmark.results import Results


class Kind(Enum):
    """What a target speaks of."""

    RATIO = "ratio"
    """mbuild's median over another's, maybe of another scenario."""
    SECONDS = "s"
    BESIDE = "beside"
    """Seconds more than another scenario of mbuild's."""
    TAKING = "taking"
    """Seconds of the parts that taking a layer has."""
    MEMORY = "MB"


_TAKING = ("diff", "stop", "take", "clean up", "content key", "keep")
"""What comes between a command's end and its result in the store: the guest's look at what changed, layer and disk."""


@dataclass(frozen=True, slots=True)
class Target:
    """At most `limit`: a ratio, seconds, or MB (10^6 bytes)."""

    text: str
    scenario: str
    kind: Kind
    limit: float
    peer: str = ""
    """For RATIO: `buildah` or `buildkit`."""
    other: str = ""
    """The scenario on the other side; without it the same."""

    def value(self, results: Results) -> float | None:
        """What was measured; None if it was not."""
        ours = results.spread(self.scenario)
        if ours is None:
            return None
        if self.kind is Kind.SECONDS:
            return ours.seconds
        if self.kind is Kind.TAKING:
            parts = results.parts(self.scenario)
            return sum(parts.get(name, 0.0) for name in _TAKING) if parts else None
        if self.kind is Kind.MEMORY:
            return ours.memory / 1e6
        theirs = results.spread(self.other or self.scenario, self.peer or "mbuild")
        if theirs is None:
            return None
        return ours.seconds - theirs.seconds if self.kind is Kind.BESIDE else ours.seconds / theirs.seconds

    def verdict(self, results: Results) -> str:
        """Held, or missed by how much."""
        value = self.value(results)
        if value is None:
            return "not measured"
        if value <= self.limit:
            return "held"
        over = self.shown(value - self.limit)
        return f"**missed** by {over} ({value / self.limit:.1f} times what is wanted)"

    def shown(self, value: float) -> str:
        """A figure with its unit."""
        match self.kind:
            case Kind.RATIO:
                return f"{value:.2f}x"
            case Kind.MEMORY:
                return f"{value:.0f} MB"
        return f"{value * 1000:.0f} ms" if self.limit < 0.1 else f"{value:.2f} s"


TARGETS = (
    Target("everything cached, kept, beside BuildKit", "cached", Kind.RATIO, 1.5, "buildkit"),
    Target("everything cached, kept, beside buildah", "cached", Kind.RATIO, 0.2, "buildah"),
    Target(
        "everything cached, OCI folder, beside BuildKit's tar",
        "cached-folder",
        Kind.RATIO,
        0.3,
        "buildkit",
        "cached-tar",
    ),
    Target("one file of 2,000 changed, beside BuildKit", "changed-2000", Kind.RATIO, 0.6, "buildkit"),
    Target("cold, up to the first RUN, beside BuildKit", "cold", Kind.RATIO, 0.6, "buildkit"),
    Target("a trivial RUN beside the command's own time", "run-1", Kind.BESIDE, 0.30, other="nothing"),
    Target("a template restored, to its first answer", "restore-template", Kind.SECONDS, 0.060),
    Target("a step wrote 1 GiB: taking the layer", "write-1g", Kind.TAKING, 4.0),
    Target("a step wrote 50,000 files: taking the layer", "write-50000", Kind.TAKING, 6.0),
    Target("a plan of 1,000 instructions", "plan-1000", Kind.SECONDS, 0.5),
    Target("peak memory of a cached build", "cached", Kind.MEMORY, 80),
)
"""On a machine of 2 cores; in TCG where there is a microVM."""

ELSEWHERE = {"cached": 0.08, "cached-tar": 0.65, "changed-2000": 0.93, "cold": 4.0}
"""Seconds of buildctl with buildkitd (root, warm), measured once on a machine of this kind with the same specs."""
