"""Durations as Go writes and reads them, and ages, in nanoseconds."""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "μs": 1_000, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DAY = 24 * 3600 * 10**9
_AGE_UNITS = {**_UNITS, "d": _DAY, "w": 7 * _DAY}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w)")
_LIMIT = 2**63 - 1


def parse_duration(text: str) -> int:
    """Read `1h30m`, `1.5s`, `300ms` or `0`. Raises ValueError. Source: Go's time.ParseDuration."""
    return _parse(text, _UNITS)


def parse_age(text: str) -> int:
    """The same with days and weeks: `7d`, `1d12h`, `2w`; never less than 0. Raises ValueError."""
    age = _parse(text, _AGE_UNITS)
    if age < 0:
        raise ValueError(f"not an age: {text!r}")
    return age


def _parse(text: str, units: Mapping[str, int]) -> int:
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    from fractions import Fraction  # with decimal: most builds read no duration

    total, position = Fraction(0), 0
    while position < len(rest):
        matched = _PART.match(rest, position)
        if matched is None or matched[2] not in units or len(matched[1]) > 40:
            raise ValueError(f"not a duration: {text!r}")
        total += Fraction(matched[1]) * units[matched[2]]
        position = matched.end()
    if not rest or total > _LIMIT:
        raise ValueError(f"not a duration: {text!r}")
    return sign * int(total)


def format_duration(nanoseconds: int) -> str:
    """Write as Go's Duration.String does: `0s`, `300ms`, `1.5s`, `1h0m0s`."""
    if nanoseconds < 0:
        return "-" + format_duration(-nanoseconds)
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 10**6)):
        if nanoseconds < size * 1_000:
            return _decimal(nanoseconds, size) + unit
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    seconds = _decimal(rest, 10**9) + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def format_age(nanoseconds: int) -> str:
    """Write an age with days, without what is zero: `7d`, `1d12h`, `90s` as `1m30s`."""
    parts = []
    for unit, size in (("d", _DAY), ("h", _UNITS["h"]), ("m", _UNITS["m"])):
        count, nanoseconds = divmod(nanoseconds, size)
        if count:
            parts.append(f"{count}{unit}")
    if nanoseconds or not parts:
        parts.append(_decimal(nanoseconds, _UNITS["s"]) + "s")
    return "".join(parts)


def _decimal(value: int, size: int) -> str:
    whole, rest = divmod(value, size)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).zfill(len(str(size)) - 1).rstrip('0')}"
