"""Differing bytes for people: a short unified diff of text, hex of anything else. Bounded, and safe to print."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_LINES = 24
_MOST_COLUMNS = 160
_MOST_TEXT_LINES = 1000
"""A diff takes time that grows with the square of the lines."""
_ROW = 16
_ROWS_BEFORE = 1
_ROWS = 5


def diff_of(first: bytes, second: bytes) -> tuple[str, ...]:
    """A few lines that show where they differ; none for equal bytes."""
    if first == second:
        return ()
    texts = text_of(first), text_of(second)
    if texts[0] is None or texts[1] is None:
        return _hex(first, second)
    lines = texts[0].splitlines(), texts[1].splitlines()
    if lines[0] == lines[1]:
        return _hex(first, second)  # ends of lines only
    begin = _common(*lines)
    start = max(0, begin - 2)
    cut = tuple(side[start : start + _MOST_TEXT_LINES] for side in lines)
    found = list(difflib.unified_diff(cut[0], cut[1], n=1, lineterm=""))[3:]
    return _bounded(found)


def text_of(data: bytes) -> str | None:
    """The text that bytes are; None for what is none."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def printable(text: str, limit: int = _MOST_COLUMNS) -> str:
    """One line, with what a terminal might obey written out."""
    safe = "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text[: limit + 1]
    )
    return safe if len(text) <= limit and len(safe) <= 4 * limit else safe[: limit - 1] + "…"


def first_difference(first: bytes, second: bytes) -> int:
    """The offset of the first byte that is not the same; the shorter length if one begins with the other."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while high - low > 1:  # the slices compare as fast as memory goes
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _common(first: list[str], second: list[str]) -> int:
    number = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        number += 1
    return number


def _bounded(lines: Iterable[str]) -> tuple[str, ...]:
    found = [printable(line) for line in lines]
    if len(found) > MOST_LINES:
        return (*found[:MOST_LINES], f"… {len(found) - MOST_LINES} more lines")
    return tuple(found)


def _hex(first: bytes, second: bytes) -> tuple[str, ...]:
    at = first_difference(first, second)
    start = max(0, at // _ROW - _ROWS_BEFORE) * _ROW
    lines: list[str] = []
    for offset in range(start, start + _ROWS * _ROW, _ROW):
        rows = first[offset : offset + _ROW], second[offset : offset + _ROW]
        if rows[0] == rows[1]:
            lines += [f" {_row(offset, rows[0])}"] if rows[0] else []
        else:
            lines += [f"{sign}{_row(offset, row)}" for sign, row in zip("-+", rows, strict=True) if row]
    return tuple(lines)


def _row(offset: int, data: bytes) -> str:
    text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data)
    return f"{offset:08x}  {data.hex(' '):<47}  {text}"
