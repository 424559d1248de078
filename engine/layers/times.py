"""The times of what is in a layer that mbuild makes: one for all, or those that things really have."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.layers.entry import NORMAL_TIME, Entry
from machinefile.values import dataclass

MAX_TIME = 0o77777777777
"""The latest time that a tar's header holds: in the year 2242."""


def bounded(seconds: float) -> int:
    """A time that may come from anywhere as a tar's header holds it: whole seconds, what is over cut off, from 0 to
    MAX_TIME. containerd, whose layers BuildKit's are, cuts it off too."""
    return int(min(max(seconds, 0), MAX_TIME))


@dataclass(frozen=True, slots=True)
class Times:
    """Which times the entries of new layers have."""

    keep: bool = False
    """Those that they come with; else NORMAL_TIME, all of them."""
    clock: Callable[[], float] = time.time
    ahead: int = 0
    """Seconds that are added to what the clock says."""

    def of(self, entry: Entry) -> Entry:
        """The entry as a new layer is to have it."""
        mtime = self.at(entry.mtime)
        if isinstance(entry.mtime, int) and mtime == entry.mtime:
            return entry
        # As `replace` would do it, in a tenth of its time.
        kind, link, device = entry.type, entry.link, entry.device
        size, xattrs, opaque = entry.size, entry.xattrs, entry.opaque
        return Entry(entry.path, kind, entry.mode, entry.uid, entry.gid, size, mtime, link, device, xattrs, opaque)

    def at(self, mtime: float) -> float:
        """The time that something of this time is to have."""
        return bounded(mtime) if self.keep else NORMAL_TIME

    def now(self) -> int:
        """The time of what the build itself makes."""
        return bounded(self.clock() + self.ahead) if self.keep else NORMAL_TIME


NORMAL = Times()
KEPT = Times(keep=True)
