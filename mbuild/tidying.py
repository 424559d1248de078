"""Keeping the store small after a build, once in a while."""

from __future__ import annotations

import sys
import threading
import time

from cache.collection.policy import Policy
from cache.collection.schedule import KEEP_DURATION, VARIABLE, allowance
from engine.collection.prune import prune
from machinefile.errors import MbuildError
from mbuild.progress.units import size
from mbuild.report import render
from mbuild.session import open_store

_LONGEST = 10.0
"""Seconds for finding out what is there."""


def tidy(cache_dir: str, cancelled: threading.Event, *, quiet: bool) -> None:
    """Remove what was not used for longest if the store has outgrown its allowance. The build is done: whatever goes
    wrong here is said and does not make it fail."""
    try:
        with open_store(cache_dir) as store:
            keep = allowance(store.root)
            if keep is None:
                return
            policy = Policy(keep_storage=keep, keep_duration=KEEP_DURATION)
            done = prune(store, policy, cancelled=cancelled, deadline=time.monotonic() + _LONGEST)
    except KeyboardInterrupt:
        return
    except MbuildError as error:
        if error.code != "interrupted":
            print(render(error), file=sys.stderr)
        return
    if done.removed and not quiet:
        freed = f"{size(done.freed)} of the store"
        print(f"mbuild: removed {freed} that nothing used for long (see {VARIABLE} in docs/cache.md)", file=sys.stderr)
