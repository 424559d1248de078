"""Instructions as they were written: nothing substituted, quotes kept, everything with its place in the file."""

from __future__ import annotations

import re
from enum import Enum

from machinefile.directives import Directive
from machinefile.lines import LogicalLine
from machinefile.source import Source, Span
from machinefile.values import dataclass


class Form(Enum):
    """How an instruction's arguments are written."""

    SHELL = "shell"
    """One string, for a shell."""
    EXEC = "exec"
    """A JSON array of strings."""
    PAIRS = "pairs"
    """Names with values."""
    WORDS = "words"
    """Words."""
    NESTED = "nested"
    """Another instruction: ONBUILD."""


@dataclass(frozen=True, slots=True)
class Word:
    """A part of an instruction and where it begins and ends in the logical line."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Pair:
    """`name=value`, `name value` (the old form) or `name` alone (ARG)."""

    name: str
    value: str | None
    start: int
    end: int
    old: bool = False
    """Written without `=`."""


@dataclass(frozen=True, slots=True)
class Flag:
    """`--name=value`; the value as written, with its quotes, None where there is none."""

    name: str
    value: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`<<NAME` and the lines down to NAME."""

    name: str
    expand: bool
    """The name was written without quotes: variables in the content are replaced (COPY, ADD)."""
    chomp: bool
    """`<<-`: tabs at the beginning of each line are dropped when the content is used."""
    content: str
    """As written."""
    marker: str
    """The word that asked for it: `<<-"EOF"`."""

    @property
    def text(self) -> str:
        """The content as it is used: with `<<-`, without leading tabs."""
        if not self.chomp:
            return self.content
        return re.sub(r"(?m)^\t+", "", self.content)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. Only the argument field of its form is filled."""

    name: str
    """Upper case."""
    written: str
    """The name as written."""
    form: Form
    line: LogicalLine
    end_line: int
    """The last line it takes, heredocs included."""
    flags: tuple[Flag, ...] = ()
    words: tuple[Word, ...] = ()
    """SHELL (one, or none), EXEC (decoded) and WORDS."""
    pairs: tuple[Pair, ...] = ()
    nested: Instruction | None = None
    heredocs: tuple[Heredoc, ...] = ()
    start: int = 0
    """Where the name begins in the logical line: past 0 for what stands in an ONBUILD."""

    @property
    def first_line(self) -> int:
        """The line where it begins."""
        return self.line.first_line

    @property
    def span(self) -> Span:
        """The whole of it, without heredocs."""
        return self.line.span(self.start, len(self.line.text.rstrip()))

    @property
    def name_span(self) -> Span:
        """Its name alone."""
        return self.line.span(self.start, self.start + len(self.written))

    def span_of(self, part: Word | Pair | Flag) -> Span:
        """The place of one of its parts."""
        return self.line.span(part.start, part.end)

    def flag(self, name: str) -> Flag | None:
        """The flag of that name, if given."""
        return next((flag for flag in self.flags if flag.name == name), None)

    def flags_named(self, name: str) -> tuple[Flag, ...]:
        """Every flag of that name, in order."""
        return tuple(flag for flag in self.flags if flag.name == name)


@dataclass(frozen=True, slots=True)
class Machinefile:
    """A parsed file."""

    source: Source
    directives: tuple[Directive, ...]
    instructions: tuple[Instruction, ...]

    @property
    def escape(self) -> str:
        """The character that escapes: a backslash, or a backtick by directive."""
        return next((directive.value for directive in self.directives if directive.name == "escape"), "\\")

    def directive(self, name: str) -> str | None:
        """The value of a directive, if given."""
        return next((directive.value for directive in self.directives if directive.name == name), None)
