"""Sizes as people write them: `512M`, `2G`, `1.5GiB`."""

from __future__ import annotations

import re

_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str) -> int:
    """Bytes; units are powers of 1024. Raises ValueError."""
    matched = _SIZE.fullmatch(text.strip())
    if matched is None:
        raise ValueError(f"not a size: {text!r}")
    from fractions import Fraction  # with decimal: most builds read no size

    return int(Fraction(matched[1]) * 1024 ** _POWERS[matched[2].lower()])
