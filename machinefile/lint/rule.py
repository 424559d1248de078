"""A rule, and what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from machinefile.lint.subject import Subject
from machinefile.source import Span
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Hit:
    """One place that breaks a rule."""

    message: str
    span: Span
    hint: str = ""
    """What to do about it, where that can be said better than the rule says it."""


Check = Callable[[Subject], Iterator[Hit]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One check by BuildKit's name."""

    name: str
    description: str
    mend: str
    """What to do about it."""
    check: Check
    experimental: bool = False
    """Off unless `experimental=` names it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that is broken, and where."""

    rule: Rule
    message: str
    span: Span
    hint: str
