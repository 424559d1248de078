"""One thing in a layer, as the rest of mbuild sees it: no tar, no OCI file names, no overlay attributes."""

from __future__ import annotations

from enum import Enum

from machinefile.values import dataclass

NORMAL_TIME = 315_619_200
"""The time of everything in a layer that mbuild makes, unless asked otherwise: 1980-01-02T00:00:00Z, the first
day that zip files and every time zone can express."""


class EntryType(Enum):
    """What an entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    CHARACTER = "character"
    BLOCK = "block"
    FIFO = "fifo"
    WHITEOUT = "whiteout"
    """The path is removed from the layers below (OCI's `.wh.NAME`)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A path in a layer and what is there."""

    path: str
    """Clean and relative: `usr/bin/env`; the empty string is the root. Bytes that are not UTF-8 are surrogates
    (PEP 383), as in os.fsdecode."""
    type: EntryType
    mode: int = 0o644
    """Permission, set-id and sticky bits: 0 to 0o7777."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    """Bytes of content; 0 for all but FILE."""
    mtime: float = NORMAL_TIME
    """Seconds since 1970."""
    link: str = ""
    """SYMLINK: the target as written. HARDLINK: the path of the other entry of this layer, clean and relative."""
    device: tuple[int, int] = (0, 0)
    """CHARACTER, BLOCK: major and minor number."""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    """Extended attributes, sorted by name: `("security.capability", b"...")`."""
    opaque: bool = False
    """DIRECTORY: hides what the layers below have in it (OCI's `.wh..wh..opq`)."""

    @property
    def sort_key(self) -> bytes:
        """Orders a layer: by the bytes of the path."""
        return self.path.encode("utf-8", "surrogateescape")
