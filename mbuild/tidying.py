"""Keeping the store small after a build, once in a while."""

from __future__ import annotations

import sys
import threading
import time

from cache.collection.policy import Policy
from cache.collection.schedule import KEEP_DURATION, VARIABLE, allowance
from cache.collection.sizes import DiskUsage
from engine.collection.prune import prune
from machinefile.errors import MbuildError
from mbuild.progress.units import size
from mbuild.report import render
from mbuild.session import open_store

_GLANCE = 2.0
"""Seconds for finding out whether there is too much: if that takes longer, there may be."""
_LONGEST = 10.0
"""Seconds for finding out what is there, and as many again for removing it."""
_BY_HAND = "at once: mbuild cache prune --keep-storage SIZE"


def tidy(cache_dir: str, cancelled: threading.Event, *, quiet: bool) -> None:
    """Remove what was not used for longest if the store has outgrown its allowance. The build is done: whatever goes
    wrong here is said and does not make it fail."""
    try:
        with open_store(cache_dir) as store:
            keep = allowance(store.root)
            if keep is None:
                return
            begun = time.monotonic()
            if not DiskUsage().exceeds(store.root, keep, begun + _GLANCE):
                return
            policy = Policy(keep_storage=keep, keep_duration=KEEP_DURATION)
            enough = begun + 2 * _LONGEST
            done = prune(store, policy, cancelled=cancelled, deadline=begun + _LONGEST, enough=enough)
    except KeyboardInterrupt:
        return
    except MbuildError as error:
        if error.code != "interrupted":
            print(render(error), file=sys.stderr)
        elif not cancelled.is_set():
            took = f"to find out what is in it takes longer than {_LONGEST:.0f} s"
            print(f"mbuild: the store has grown, and was not cleaned: {took} ({_BY_HAND})", file=sys.stderr)
        return
    if done.removed and not quiet:
        freed = f"{size(done.freed)} of the store"
        said = f"mbuild: removed {freed} that nothing used for long (see {VARIABLE} in docs/cache.md)"
        print(said if done.complete else f"{said}; there is more, for another time ({_BY_HAND})", file=sys.stderr)
