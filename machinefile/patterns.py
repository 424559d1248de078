"""The patterns of `${name#pattern}` and its kin: `*`, `?` and literal characters, matched in linear passes.

A pattern is cut at its stars into segments of fixed length. Placing each segment as early as it goes gives the
shortest match, placing the last one as late as it goes gives the longest, so nothing ever backtracks.
"""

from __future__ import annotations

import re

from machinefile.values import dataclass

ANY = None
"""In a segment: a character that may be anything (`?`)."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern's segments, between which anything may stand. Each holds characters, or ANY."""

    segments: tuple[tuple[str | None, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Pattern:
        r"""Read a pattern. `\*`, `\?`, `\\`, `\}` and `\/` are literal. Raises ValueError for any other escape."""
        segments: list[list[str | None]] = [[]]
        position = 0
        while position < len(text):
            character = text[position]
            if character == "*":
                segments.append([])
            elif character == "\\":
                position += 1
                escaped = text[position : position + 1]
                if escaped not in ("*", "?", "\\", "}", "/"):
                    raise ValueError(f"invalid escape \\{escaped}")
                segments[-1].append(escaped)
            else:
                segments[-1].append(ANY if character == "?" else character)
            position += 1
        return cls(tuple(map(tuple, segments)))

    def reverse(self) -> Pattern:
        """The pattern that matches reversed text."""
        return Pattern(tuple(segment[::-1] for segment in reversed(self.segments)))

    def match(self, text: str, start: int = 0, *, longest: bool) -> int | None:
        """Where the match that begins at `start` ends, or None."""
        expressions = [_compile(segment) for segment in self.segments]
        first = expressions[0].match(text, start)
        if first is None:
            return None
        end = first.end()
        for number, expression in enumerate(expressions[1:], 2):
            found = expression.search(text, end)
            if found is None:
                return None
            if longest and number == len(expressions):
                return self._last(text, end)
            end = found.end()
        return end

    def find(self, text: str, start: int = 0) -> tuple[int, int] | None:
        """The leftmost match from `start` on, as long as possible: its begin and its end."""
        first = _compile(self.segments[0]).search(text, start)
        if first is None:
            return None
        end = self.match(text, first.start(), longest=True)
        return None if end is None else (first.start(), end)

    def _last(self, text: str, start: int) -> int:
        """The end of the latest place of the last segment, which is known to have one from `start` on."""
        reversed_segment = _compile(self.segments[-1][::-1])
        found = reversed_segment.search(text[start:][::-1])
        return len(text) if found is None else len(text) - found.start()


def _compile(segment: tuple[str | None, ...]) -> re.Pattern[str]:
    return re.compile("".join("." if part is None else re.escape(part) for part in segment), re.DOTALL)


def trim_prefix(value: str, pattern: str, *, longest: bool) -> str:
    """`${value#pattern}`, or with `longest` `##`. Raises ValueError for a bad pattern."""
    end = Pattern.parse(pattern).match(value, longest=longest)
    return value if end is None else value[end:]


def trim_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """`${value%pattern}`, or with `longest` `%%`. Raises ValueError for a bad pattern."""
    end = Pattern.parse(pattern).reverse().match(value[::-1], longest=longest)
    return value if end is None else value[: len(value) - end]


def substitute(value: str, pattern: str, replacement: str, *, everywhere: bool) -> str:
    """`${value/pattern/replacement}`, or with `everywhere` `//`. Raises ValueError for a bad pattern."""
    compiled = Pattern.parse(pattern)
    parts: list[str] = []
    position = 0
    while position <= len(value):
        found = compiled.find(value, position)
        if found is None:
            break
        begin, end = found
        parts += (value[position:begin], replacement)
        position = end
        if begin == end:
            parts.append(value[end : end + 1])
            position += 1
        if not everywhere:
            break
    return "".join(parts) + value[position:]
