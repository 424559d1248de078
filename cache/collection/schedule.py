"""When the store is cleaned by itself, and down to what."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from machinefile.errors import UsageError
from machinefile.sizes import parse_size

VARIABLE = "MBUILD_KEEP_STORAGE"
KEEP_DURATION = 48 * 3600.0
"""Seconds: what was used since then is never removed by itself."""
_INTERVAL = 12 * 3600.0
"""Seconds between two looks at how large the store is."""
_SHARE = 5
"""The store may have one part in so many of its disk."""
_LEAST = 10 << 30
"""Bytes that it may have of the smallest disk."""
_STAMP = "collected"


def is_due(root: Path) -> bool:
    """Whether it is time to look; says yes once in an interval. Costs a stat. Never in a store that is new, or that
    cannot be written."""
    stamp = root / _STAMP
    try:
        last = stamp.stat().st_mtime
    except OSError:
        last = None
    # A time to come is one of a clock that was wrong.
    if last is not None and 0 <= time.time() - last < _INTERVAL:
        return False
    try:
        stamp.touch()
    except OSError:
        return False
    return last is not None


def allowance(root: Path) -> int | None:
    """Bytes that the store may have: MBUILD_KEEP_STORAGE, or a fifth of its disk, 10 GiB at least; None where 0 says
    that it is never cleaned by itself. Raises UsageError (`usage`)."""
    text = os.environ.get(VARIABLE, "")
    if text:
        try:
            return parse_size(text) or None
        except ValueError as error:
            raise UsageError(
                f"{VARIABLE} is {text!r}, which is no size",
                code="usage",
                hint=f"for example {VARIABLE}=50G, or {VARIABLE}=0 for never",
            ) from error
    size = 0
    with suppress(OSError):
        status = os.statvfs(root)
        size = status.f_blocks * status.f_frsize
    return max(size // _SHARE, _LEAST)
