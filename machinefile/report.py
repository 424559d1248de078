"""Where resolving notes what is wrong and what is odd, so that one run tells everything."""

from __future__ import annotations

from dataclasses import field

from machinefile.errors import MachinefileError, Problem
from machinefile.source import Span
from machinefile.steps import Warning as BuildWarning
from machinefile.values import dataclass


@dataclass(slots=True)
class Report:
    """Problems and warnings found so far."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[BuildWarning] = field(default_factory=list)

    def problem(self, message: str, code: str, span: Span | None = None, hint: str = "") -> None:
        """Note a mistake and go on."""
        self.problems.append(Problem(message, code, span, hint))

    def warn(self, message: str, code: str, span: Span | None = None, hint: str = "") -> None:
        """Note an oddity, once a place."""
        warning = BuildWarning(message, code, span, hint)
        if warning not in self.warnings:
            self.warnings.append(warning)

    def check(self) -> None:
        """Raises MachinefileError if any problem was noted."""
        if self.problems:
            raise MachinefileError(in_order(self.problems))


def in_order(problems: list[Problem]) -> list[Problem]:
    """Problems as they stand in the file, those without a place last."""

    def place(problem: Problem) -> tuple[int, int]:
        return (problem.span.line, problem.span.column) if problem.span else (1 << 60, 0)

    return sorted(problems, key=place)
