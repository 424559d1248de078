"""What a builder is asked for: the same for all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path


class Output(Enum):
    """What becomes of the image."""

    NOTHING = "nothing"
    NAME = "name"
    """Kept under a name."""
    TAR = "tar"
    """One file that holds the image."""
    FOLDER = "folder"
    """An OCI layout; a tar from a builder that writes none."""
    PUSH = "push"


@dataclass(frozen=True, slots=True)
class Job:
    """One build."""

    file: Path
    """The Machinefile."""
    context: Path
    output: Output = Output.NOTHING
    name: str = ""
    """For NAME and PUSH, with the registry's address."""
    cache_from: str = ""
    """The name of a cache in a registry."""
    cache_to: str = ""

    def of(self, builder: str) -> Job:
        """The same with names of the builder's own: what one pushes must not replace what another has."""
        own = [re.sub(r":1$", f"-{builder}:1", name) for name in (self.name, self.cache_from, self.cache_to)]
        return replace(self, name=own[0], cache_from=own[1], cache_to=own[2])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    digest: str
    """Of the image, or its configuration: the same as long as the image is. Empty if the builder does not say it."""
    run: int | None = None
    """Steps that were run; None if the builder does not say it."""
    restores: int | None = None
    """MicroVMs."""
