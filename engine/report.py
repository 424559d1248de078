"""What came of a build."""

from __future__ import annotations

from dataclasses import dataclass

from machinefile.platform import Platform


@dataclass(frozen=True, slots=True)
class ImageReport:
    """One image that came of it."""

    platform: Platform
    """What it was asked for."""
    digest: str
    config_digest: str


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What came of it."""

    digest: str
    """Of the manifest, or, for several platforms, of the index."""
    images: tuple[ImageReport, ...]
    """One a platform, in the order that was asked for."""
    hit: int
    """Steps whose results were there."""
    run: int
    """Steps that ran."""
    restores: int
    """MicroVMs that were started."""
    seconds: float

    @property
    def config_digest(self) -> str:
        """Of the image's configuration; empty for an index, which has none."""
        return self.images[0].config_digest if len(self.images) == 1 else ""

    @property
    def total(self) -> int:
        """All steps that make a file system."""
        return self.hit + self.run
