"""What to say where the grammar stopped: in the user's words, not in the grammar's."""

from __future__ import annotations

import re

from machinefile.errors import Problem
from machinefile.instructions import Instruction
from machinefile.lines import BLANK

_QUOTED = re.compile(r"""\\.|"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*'|[^"'\\]+""", re.DOTALL)

_EXPECTED = {
    "ENV": ("ENV needs a name and a value", "for example ENV LANG=C.UTF-8"),
    "LABEL": ("LABEL needs a name and a value", "for example LABEL version=1.0"),
}


def explain(instruction: Instruction, offset: int, text: str, position: int) -> Problem:
    """Why an instruction's text can't be read at `position`; `offset` is where the text begins in its line."""
    line = instruction.line
    quote = _open_quote(text)
    if quote is not None:
        span = line.span(offset + quote, offset + len(text))
        hint = (
            f"add {text[quote]} where the quoted text ends, or write {_escaped(text[quote])} for the character itself"
        )
        return Problem(f"the quote {text[quote]} is never closed", "unclosed-quote", span, hint)
    start = offset + min(position, len(text))
    end = offset + len(text)
    word = re.match(rf"[^{BLANK}]*", text[start - offset :])
    span = line.span(start, start + len(word[0]) if word and word[0] else end)
    if line.text.startswith("=", start):
        message = f"{instruction.name} has a value without a name"
        return Problem(message, "missing-name", span, "write name=value")
    if instruction.name in _EXPECTED:
        message, hint = _EXPECTED[instruction.name]
        if not text.strip() or start >= end:
            return Problem(message, "missing-argument", instruction.name_span if not text.strip() else span, hint)
        shown = line.text[start : span.end_column - span.column + start] or line.text[start:end]
        message = f"{shown[:60]} has no value: write name=value"
        return Problem(message, "missing-value", span, "quote the value if it contains blanks")
    message = f"{instruction.name} can't be read from here"
    return Problem(message, "bad-syntax", span, "look for a stray quote or a backslash at the end")


def _escaped(quote: str) -> str:
    return f"\\{quote}"


def _open_quote(text: str) -> int | None:
    """Where the quote begins that is never closed."""
    position = 0
    while position < len(text):
        matched = _QUOTED.match(text, position)
        if matched is None:
            return position if text[position] in "\"'" else None
        position = matched.end()
    return None
