"""What came of a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machinefile.platform import Platform
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.carry.export import ExportReport


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
    exports: ExportReport | None = None
    """What came of --cache-to; None where there was none. What failed is in it, and nobody else has told of it."""
    imported: int = 0
    """Steps whose results were in caches elsewhere."""
    attested: str = ""
    """Digest of the index of the image, or images, and what is said about them; empty if nothing is."""

    @property
    def config_digest(self) -> str:
        """Of the image's configuration; empty for an index, which has none."""
        return self.images[0].config_digest if len(self.images) == 1 else ""

    @property
    def total(self) -> int:
        """All steps that make a file system."""
        return self.hit + self.run
