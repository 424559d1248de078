"""Text from steps, made fit for a terminal.

What a step prints is not trusted: an escape sequence can move the cursor over earlier lines, set the window's
title, or have the terminal answer with typed text. So of all control sequences only colours and weights (SGR)
remain, and of all control characters only the tab.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from itertools import islice

RESET = "\x1b[0m"
UNSHOWABLE = "�"

_LONGEST_LINE = 16384
"""Characters that are held back for a line end that never comes."""

# Each alternative matches as soon as its first two characters do, so that no input makes it look twice (ECMA-48).
_SEQUENCE = re.compile(
    r"\x1b\[(?P<parameters>[0-?]*)(?P<between>[ -/]*)(?P<final>[@-~]?)"  # control sequences
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?"  # strings to the terminal: OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]*[0-~]?"  # the short ones
)
_OVERSTRUCK = re.compile("[^\x08\x1b]\x08")
# The controls (C0, DEL, C1), the marks that reorder text or break lines unseen, and halves of characters.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_BELL_AND_BACKSPACE = dict.fromkeys((7, 8))
_SIMPLE = frozenset(
    str(number)
    for numbers in (range(5), (7,), range(21, 26), (27, 29), range(30, 38), (39,), range(40, 48), (49,))
    for number in numbers
) | {str(number) for start in (90, 100) for number in range(start, start + 8)}
_EXTENDED = {"5": 1, "2": 3}
"""After 38 and 48: how many numbers each kind of colour takes."""


def clean(text: str, *, colour: bool = False) -> str:
    """One line without anything that could drive a terminal. With `colour`, SGR stays, and ends with the line."""
    if text.isprintable():
        return text
    text = _OVERSTRUCK.sub("", text) if "\x08" in text else text
    parts: list[str] = []
    position = 0
    coloured = False
    for found in _SEQUENCE.finditer(text):
        parts.append(_neutral(text[position : found.start()]))
        position = found.end()
        if colour and found["final"] == "m" and not found["between"]:
            sequence = _sgr(found["parameters"])
            coloured = coloured or bool(sequence)
            parts.append(sequence)
    parts.append(_neutral(text[position:]))
    return "".join(parts) + (RESET if coloured else "")


def label(text: str) -> str:
    """Text of any origin as one line without colours."""
    return clean(" ".join(text.split()))


def _neutral(text: str) -> str:
    """No controls: bells and backspaces go, the others leave a mark."""
    return text if text.isprintable() else _CONTROL.sub(UNSHOWABLE, text.translate(_BELL_AND_BACKSPACE))


def _sgr(parameters: str) -> str:
    """The sequence with only those numbers that set a colour or a weight; empty when none is left."""
    numbers = iter(parameters[:64].replace(":", ";").split(";"))
    kept: list[str] = []
    for number in numbers:
        if number in ("38", "48"):
            kept += _extended_colour(number, numbers)
        elif number in _SIMPLE:
            kept.append(number)
        elif number == "":
            kept.append("0")
    return f"\x1b[{';'.join(kept)}m" if kept else ""


def _extended_colour(number: str, following: Iterator[str]) -> list[str]:
    kind = next(following, "")
    values = list(islice(following, _EXTENDED.get(kind, 0)))
    whole = kind in _EXTENDED and len(values) == _EXTENDED[kind]
    return [number, kind, *values] if whole and all(v.isascii() and v.isdigit() and len(v) <= 3 for v in values) else []


class LineReader:
    """Turns the bytes of one stream, as they come, into lines fit to be shown.

    What is not UTF-8 becomes U+FFFD. Of a line that was written over by carriage returns the last state stays, as
    on a terminal. A line without an end is given out in pieces. `longest` cuts lines after so many characters.
    """

    def __init__(self, *, colour: bool, longest: int | None = None) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._colour = colour
        self._longest = longest

    def feed(self, data: bytes, *, last: int | None = None) -> list[str]:
        """The lines that these bytes complete; with `last`, no more than so many of the last ones."""
        *lines, rest = (self._pending + self._decoder.decode(data)).split("\n")
        rest = _last_state(rest)
        while len(rest) > _LONGEST_LINE:
            lines.append(rest[:_LONGEST_LINE])
            rest = rest[_LONGEST_LINE:]
        self._pending = rest
        return [self._show(line) for line in lines[-last if last else 0 :]]

    def flush(self) -> list[str]:
        """What is left, when there is no more."""
        rest, self._pending = self._pending + self._decoder.decode(b"", final=True), ""
        return [self._show(rest)] if rest else []

    @property
    def partial(self) -> str:
        """The line that is not complete yet."""
        return self._show(self._pending)

    def _show(self, line: str) -> str:
        # Cut before cleaning: half a colour sequence would be none that is known to be harmless.
        return clean(_last_state(line).rstrip("\r")[: self._longest], colour=self._colour)


def _last_state(line: str) -> str:
    """What is after the last carriage return that something follows."""
    return line[line.rstrip("\r").rfind("\r") + 1 :] if "\r" in line else line


def last_words(name: str, lines: Sequence[str]) -> list[str]:
    """How logs show the end of a failed step's output, as BuildKit's users know it; nothing where it wrote nothing."""
    return ["------", f" > {name}:", *lines, "------"] if lines else []
