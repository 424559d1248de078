"""RUN --clock: which time a step's machine shows."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"
EARLIEST = 31_536_000
"""Seconds since 1970, a year. Linux sets no clock to less than how long it has been up, and a step may run for long.
Source: do_settimeofday64() in Linux' kernel/time/timekeeping.c."""
LATEST = 8_277_292_035
"""The kernel keeps 30 years of what 64 bits of nanoseconds hold. Source: TIME_SETTOD_SEC_MAX in linux/time64.h."""


class Clock(Enum):
    """RUN --clock."""

    REAL = "real"
    """As this machine's."""
    EPOCH = "epoch"
    """It starts at the SOURCE_DATE_EPOCH that the step sees, and runs."""
    FROZEN = "frozen"
    """It stands there."""


def declared_epoch(environment: Mapping[str, str]) -> int | None:
    """The SOURCE_DATE_EPOCH of a step's own environment, None if there is none, or an empty one.

    Raises ValueError for what no clock can be set to.
    """
    text = environment.get(EPOCH_VARIABLE, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(LATEST))):
        raise ValueError(text)
    seconds = int(text)
    if not EARLIEST <= seconds <= LATEST:
        raise ValueError(text)
    return seconds
