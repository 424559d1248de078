"""Text to logical lines: directives, comments, continuations, byte-order mark, line ends; heredoc bodies on demand.

Every character of a logical line keeps its place in the file, so that whatever goes wrong later can point there.
The rules are those of BuildKit's Dockerfile parser.
"""

from __future__ import annotations

from bisect import bisect_right

from machinefile.directives import ESCAPES, Directive, match_directive
from machinefile.errors import Problem
from machinefile.source import Source, Span
from machinefile.values import dataclass

SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""What counts as a blank before a comment or an instruction: Unicode's white space."""

BLANK = "\t\v\f\r "
"""What separates words inside an instruction."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Where a part of a logical line stands in the file."""

    offset: int
    """Of its first character in the logical line."""
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class LogicalLine:
    """An instruction's text with its continuations joined."""

    source: Source
    text: str
    pieces: tuple[Piece, ...]
    last_line: int
    """The last physical line it took, without heredocs."""
    comments: tuple[str, ...] = ()
    """The comments directly above it, without `#` and blanks."""
    empty_continuations: tuple[int, ...] = ()
    """Empty lines inside it: allowed, deprecated."""

    @property
    def first_line(self) -> int:
        """The line where it begins."""
        return self.pieces[0].line

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character of `text`."""
        piece = self.pieces[max(0, bisect_right(self.pieces, offset, key=lambda piece: piece.offset) - 1)]
        return piece.line, piece.column + offset - piece.offset

    def span(self, start: int, end: int) -> Span:
        """The place of `text[start:end]`; at least one character wide."""
        line, column = self.position(start)
        if end <= start:
            return Span(self.source, line, column, line, column + 1)
        end_line, end_column = self.position(end - 1)
        return Span(self.source, line, column, end_line, end_column + 1)


class LineReader:
    """Hands out the logical lines of a source, one by one; after a line, the heredoc bodies below it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.directives: list[Directive] = []
        self.problems: list[Problem] = []
        self.escape = "\\"
        self._lines = source.text.split("\n")
        if self._lines[-1] == "":
            self._lines.pop()
        self._next = 0
        self._indent_bom = 1 if source.text.startswith("\ufeff") else 0
        self._comments: list[str] = []
        self._read_directives()

    @property
    def line_number(self) -> int:
        """How many physical lines have been read: the number of the last one."""
        return self._next

    def next_line(self) -> LogicalLine | None:
        """The next instruction's line, or None at the end."""
        while self._next < len(self._lines):
            raw, column = self._take()
            stripped = raw.lstrip(SPACE)
            if stripped.startswith("#"):
                self._note_comment(stripped[1:].strip(SPACE))
            elif stripped:
                return self._join(stripped, column + len(raw) - len(stripped))
            else:
                self._comments.clear()
        return None

    def heredoc(self, name: str, chomp: bool) -> str | None:
        """The lines up to the one that is `name`, line ends as written; None, and all the rest read, where none is."""
        for end in range(self._next, len(self._lines)):
            candidate = self._lines[end].rstrip("\r")
            if (candidate.lstrip("\t") if chomp else candidate) == name:
                body = self._lines[self._next : end]
                self._next = end + 1
                return "".join(line + "\n" for line in body)
        self._next = len(self._lines)
        return None

    def _take(self) -> tuple[str, int]:
        raw = self._lines[self._next].rstrip("\r")
        column = 1
        if self._next == 0 and self._indent_bom:
            raw, column = raw[1:], 2
        self._next += 1
        return raw, column

    def _note_comment(self, comment: str) -> None:
        if comment:
            self._comments.append(comment)
        else:
            self._comments.clear()

    def _join(self, first: str, column: int) -> LogicalLine:
        pieces = [Piece(0, self._next, column)]
        body, more = self._cut_continuation(first)
        parts, length = [body], len(body)
        empty: list[int] = []
        while more and self._next < len(self._lines):
            raw, column = self._take()
            stripped = raw.lstrip(SPACE)
            if stripped.startswith("#"):
                continue
            if not stripped:
                empty.append(self._next)
                continue
            body, more = self._cut_continuation(raw)
            pieces.append(Piece(length, self._next, column))
            parts.append(body)
            length += len(body)
        comments, self._comments = tuple(self._comments), []
        return LogicalLine(self.source, "".join(parts), tuple(pieces), self._next, comments, tuple(empty))

    def _cut_continuation(self, line: str) -> tuple[str, bool]:
        """The line without its continuation mark, and whether it had one: a lone escape, then blanks at most."""
        body = line.rstrip("\t ")
        if body.endswith(self.escape) and not body.endswith(self.escape * 2):
            return body[:-1], True
        return line, False

    def _read_directives(self) -> None:
        """Take the directives off the top. After a `#!` line the escape can't be set any more, as in BuildKit."""
        shebang = bool(self._lines) and self._lines[0][self._indent_bom :].startswith("#!")
        if shebang:
            self._next = 1
        while self._next < len(self._lines):
            raw, column = self._take()
            stripped = raw.lstrip(SPACE)
            found = match_directive(stripped)
            if found is None:
                self._next -= 1
                return
            name, value, offset = found
            column += len(raw) - len(stripped)
            span = Span(self.source, self._next, column + offset, self._next, column + offset + len(value))
            if not (shebang and name == "escape"):
                self._add_directive(Directive(name, value, span))

    def _add_directive(self, directive: Directive) -> None:
        if any(seen.name == directive.name for seen in self.directives):
            message = f"the directive {directive.name} is given twice"
            self.problems.append(Problem(message, "directive-twice", directive.span, "keep one of them"))
            return
        if directive.name == "escape" and directive.value not in ESCAPES:
            message = f"the escape character can't be {directive.value!r}"
            self.problems.append(Problem(message, "bad-escape", directive.span, "it is ` or \\"))
            return
        self.directives.append(directive)
        if directive.name == "escape":
            self.escape = directive.value
