"""What looking through a store finds wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from enum import Enum

from machinefile.errors import MbuildError
from machinefile.values import dataclass


class Harm(Enum):
    """What is wrong. The values are stable: programs read them."""

    BLOB = "blob-corrupt"
    """A blob whose bytes are not those of its digest."""
    ENTRY = "entry-unusable"
    """An entry of the index that is damaged, another's, or makes no sense."""
    RESULT = "entry-wrong"
    """An entry that says of a layer what is not so, or what another denies."""
    LAYER = "layer-index-unusable"
    """A file in layers/ that is damaged or another layer's."""
    DISK = "disk-corrupt"
    """A squashfs in disks/, or the disk of a cache mount, that is not what was made."""
    NAMES = "names-unreadable"
    """The names of images, in whole or in part."""
    IMAGE = "image-not-whole"
    """An image with a name that lacks something."""
    MACHINE = "machine-corrupt"
    STRAY = "stray-file"
    """Something in a folder of the store that mbuild did not put there, or did not finish."""
    SET_ASIDE = "set-aside"
    """A damaged index, or file of names, that was replaced: no harm is left, and it only takes space."""
    UNKNOWN = "unknown"
    """Something beside the store's own folders: perhaps another release's, so it is never touched."""

    @property
    def is_damage(self) -> bool:
        """Whether the store is not as it should be."""
        return self not in (Harm.SET_ASIDE, Harm.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found."""

    harm: Harm
    subject: str
    """The file, from the store's folder on, or the entry, or the image's name."""
    message: str
    """What is wrong with it, in words."""
    mend: Callable[[], None] | None = field(default=None, compare=False, repr=False)
    """Removes what is wrong, so that it is made anew when it is needed; None where there is nothing to do."""

    def repair(self) -> str:
        """Mend it; what hindered that, in words, or nothing."""
        if self.mend is None:
            return "there is nothing that could be done"
        try:
            self.mend()
        except MbuildError as error:
            return error.message
        return ""


@dataclass(slots=True)
class Seen:
    """How much was looked at."""

    blobs: int = 0
    bytes: int = 0
    """Of blobs that were read."""
    entries: int = 0
    layers: int = 0
    disks: int = 0
    machines: int = 0
    images: int = 0
    mounts: int = 0
