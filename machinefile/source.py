"""Where something stands in the text a user wrote."""

from __future__ import annotations

from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One file of text as the user wrote it."""

    name: str
    """How messages name it: the path as given on the command line, or `-`."""
    text: str

    def line(self, number: int) -> str:
        """The text of a line (from 1) without its line end; empty outside the file."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a source. Lines and columns count from 1; the end column is one past the last character."""

    source: Source
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.source.name}:{self.line}:{self.column}"
