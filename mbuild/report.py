"""Errors and warnings as the user reads them: what failed, where, what to do next."""

from __future__ import annotations

from machinefile.errors import MachinefileError, MbuildError, Problem
from machinefile.source import Span

_MAX_LINE = 160
"""Characters of a source line that are shown."""


def render(error: MbuildError) -> str:
    """The text for an error, without a line's end at the end."""
    if isinstance(error, MachinefileError):
        return "\n".join(_render(problem) for problem in error.problems)
    return _render(Problem(error.message, error.code, error.span, error.hint))


def _render(problem: Problem) -> str:
    place = f"{problem.span}: " if problem.span else ""
    lines = [f"mbuild: {place}{problem.message}"]
    if problem.span:
        lines += excerpt(problem.span)
    if problem.hint:
        lines.append(f"  {problem.hint}")
    return "\n".join(lines)


def excerpt(span: Span) -> list[str]:
    """The source line with a caret under the place; nothing where the line cannot be shown."""
    text = span.source.line(span.line).replace("\t", " ")
    if not text.strip():
        return []
    start = max(0, span.column - 1 - _MAX_LINE // 2) if len(text) > _MAX_LINE else 0
    shown = "".join(char if char.isprintable() else "?" for char in text[start : start + _MAX_LINE])
    end = span.end_column if span.end_line == span.line else len(text) + 1
    width = max(1, min(end - span.column, len(shown) - (span.column - 1 - start)))
    gutter = f"{span.line:>5} | "
    return [gutter + shown, " " * (len(gutter) + span.column - 1 - start) + "^" * width]
