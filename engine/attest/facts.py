"""What came of a build, as far as its provenance tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from machinefile.imageconfig import Pairs
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.remote.giturl import GitUrl
    from engine.remote.repository import Found

Commits = Callable[["GitUrl"], "Found | None"]
"""Tells what a repository's address was found to mean; None where nobody asked."""


def nothing_found(url: GitUrl) -> Found | None:
    """Of a build without repositories."""
    return None


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """See the module."""

    ran: frozenset[str]
    """The ids of the steps that were run, not found."""
    machines: Callable[[], Pairs] | None
    """Tells the versions of what ran steps; None where no microVM was started."""
    commits: Commits = nothing_found

    @classmethod
    def of(
        cls, ran: set[str], restores: int, machines: Callable[[], Pairs] | None, commits: Commits = nothing_found
    ) -> BuildFacts:
        """Of a build that started so many microVMs."""
        return cls(frozenset(ran), machines if restores else None, commits)

    def versions(self) -> Pairs:
        """Of mbuild, and of what ran steps. Raises HostError."""
        from engine.attest.version import VERSION

        own = (("mbuild", VERSION),)
        return own if self.machines is None else (*own, *self.machines())
