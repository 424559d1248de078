"""Values as Go's fmt prints them: the history of an image is written in them by every builder."""

from __future__ import annotations

from collections.abc import Sequence

from machinefile.durations import format_duration
from machinefile.imageconfig import Healthcheck

_SHORT = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quote(text: str) -> str:
    """`%q` of a string. Source: Go's strconv.Quote."""
    return '"' + "".join(map(_quoted, text)) + '"'


def _quoted(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted_list(items: Sequence[str]) -> str:
    """`%q` of a slice of strings: `["a" "b"]`."""
    return "[" + " ".join(map(quote, items)) + "]"


def plain_list(items: Sequence[str]) -> str:
    """`%v` of a slice of strings: `[a b]`."""
    return "[" + " ".join(items) + "]"


def healthcheck(check: Healthcheck) -> str:
    """`%+v` of Docker's HealthcheckConfig."""
    fields = (
        f"Test:{plain_list(check.test)}",
        f"Interval:{format_duration(check.interval)}",
        f"Timeout:{format_duration(check.timeout)}",
        f"StartPeriod:{format_duration(check.start_period)}",
        f"StartInterval:{format_duration(check.start_interval)}",
        f"Retries:{check.retries}",
    )
    return "{" + " ".join(fields) + "}"
