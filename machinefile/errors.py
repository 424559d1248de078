"""Every error that mbuild raises on purpose.

    MbuildError                   exit
    ├── UsageError                2     the command line asks for what cannot be
    ├── MachinefileError          2     the Machinefile or the context is wrong; carries every problem found
    ├── StepError                 1     a step ran and failed
    ├── MissError                 1     a step would have to run, and none may: --fail-on-miss
    ├── HostError                 3     this machine lacks something: a program, a kernel, space, a right
    │   └── StoreError            3     the store cannot be read or written
    ├── TransferError             4     a registry or the network failed
    │   └── UntrustedDataError    4     what came in is not what it says it is: digest, layer, manifest
    ├── DifferenceError           5     verify found a difference
    └── InterruptedBuildError     130   the user stopped the build

Each has a message (what failed, on which value), a hint (what to do next) and a code, stable across
releases, that tests and other programs may rely on. Only the command line prints them or exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from machinefile.source import Span
from machinefile.values import dataclass


class MbuildError(Exception):
    """The root of the tree."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, code: str, hint: str = "", span: Span | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.span = span


class UsageError(MbuildError):
    """The command line asks for what cannot be."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a Machinefile."""

    message: str
    code: str
    span: Span | None = None
    hint: str = ""


class MachinefileError(MbuildError):
    """The Machinefile, or the context it speaks of, is wrong."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        super().__init__(first.message, code=first.code, hint=first.hint, span=first.span)
        self.problems = tuple(problems)

    @classmethod
    def one(cls, message: str, *, code: str, span: Span | None = None, hint: str = "") -> MachinefileError:
        """An error with a single problem."""
        return cls([Problem(message, code, span, hint)])


class StepError(MbuildError):
    """A step ran and failed."""

    exit_code = 1
    step = ""
    """The id of the step, once it is known."""


class MissError(MbuildError):
    """A step would have to run, and none may."""

    exit_code = 1


class HostError(MbuildError):
    """This machine lacks something: a program, a kernel, space, a right."""

    exit_code = 3


class StoreError(HostError):
    """The store cannot be read or written."""


class TransferError(MbuildError):
    """A registry or the network failed."""

    exit_code = 4


class UntrustedDataError(TransferError):
    """What came in is not what it says it is."""


class DifferenceError(MbuildError):
    """A verification found a difference."""

    exit_code = 5


class InterruptedBuildError(MbuildError):
    """The user stopped the build."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted", code="interrupted")
