"""Wildcards of paths, matched without backtracking where backtracking could hurt."""

from __future__ import annotations

import re
from dataclasses import field
from functools import lru_cache

from machinefile.values import dataclass

_STARS = ("[^/]*", ".*", "(?:.*/)?")
_HARMLESS_STARS = 3
"""Up to so many stars a regular expression can't take long; with more, states are followed instead."""


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A compiled pattern: regular expressions for single characters, with stars between them."""

    parts: tuple[str, ...]
    literal: str
    """What every match begins with."""
    expression: re.Pattern[str] | None = field(repr=False)
    characters: tuple[re.Pattern[str] | None, ...] = field(repr=False)

    def matches(self, path: str) -> bool:
        """Whether the whole path fits."""
        if not path.startswith(self.literal):
            return False
        if self.expression is not None:
            return self.expression.fullmatch(path) is not None
        return self._follow(path)

    def _follow(self, path: str) -> bool:
        """Follow every way through the parts at once. A state is twice a part's number, plus one inside a `**/`."""
        states = self._through({0})
        for character in path:
            following: set[int] = set()
            for state in states:
                following.update(self._step(state, character))
            states = self._through(following)
        return 2 * len(self.parts) in states

    def _step(self, state: int, character: str) -> tuple[int, ...]:
        index = state // 2
        if index == len(self.parts):
            return ()
        part, expression = self.parts[index], self.characters[index]
        if expression is not None:
            return (2 * index + 2,) if expression.fullmatch(character) else ()
        if part == "[^/]*":
            return () if character == "/" else (state,)
        if part == ".*":
            return (state,)
        return (2 * index + 1, 2 * index + 2) if character == "/" else (2 * index + 1,)

    def _through(self, states: set[int]) -> set[int]:
        """The states, and those that stars let through without a character."""
        found = set(states)
        for state in states:
            index = state // 2
            while not state % 2 and index < len(self.parts) and self.characters[index] is None:
                index += 1
                found.add(2 * index)
        return found


@lru_cache(maxsize=4096)
def compile_wildcard(pattern: str, *, double_star: bool) -> Wildcard:
    r"""Compile a pattern of Go's filepath.Match: `*`, `?`, `[a-z]`, `[^a]`, `\` to escape.

    With `double_star` also `**`, any number of folders: .dockerignore's extension. Raises ValueError.
    """
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        part, position = _part(pattern, position, double_star)
        if not (parts and part in _STARS and parts[-1] == part):
            parts.append(part)
    stars = sum(part in _STARS for part in parts)
    characters = tuple(None if part in _STARS else re.compile(part, re.DOTALL) for part in parts)
    expression = re.compile("".join(parts), re.DOTALL) if stars <= _HARMLESS_STARS else None
    plain = re.match(r"[^*?\[\]\\]*", pattern)
    return Wildcard(tuple(parts), plain[0] if plain else "", expression, characters)


def _part(pattern: str, position: int, double_star: bool) -> tuple[str, int]:
    character = pattern[position]
    if character == "*":
        if not (double_star and pattern.startswith("**", position)):
            return "[^/]*", position + 1
        position += 2
        if position < len(pattern) and pattern[position] == "/":
            position += 1
        return (".*" if position == len(pattern) else "(?:.*/)?"), position
    if character == "?":
        return "[^/]", position + 1
    if character == "[":
        return _class(pattern, position + 1)
    if character == "\\":
        if position + 1 == len(pattern):
            raise ValueError(f"the pattern {pattern} ends in a backslash")
        return re.escape(pattern[position + 1]), position + 2
    return re.escape(character), position + 1


def _class(pattern: str, position: int) -> tuple[str, int]:
    """A character class: `[a-z]`, `[^a]`. It never matches a slash."""
    negated = pattern.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while position < len(pattern) and (pattern[position] != "]" or not ranges):
        first, position = _member(pattern, position)
        last = first
        if pattern.startswith("-", position) and not pattern.startswith("-]", position):
            last, position = _member(pattern, position + 1)
        if last < first:
            raise ValueError(f"the pattern {pattern} has a range that runs backwards")
        ranges.append(f"{re.escape(first)}-{re.escape(last)}")
    if position >= len(pattern):
        raise ValueError(f"the pattern {pattern} has a [ without its ]")
    return f"(?!/)[{'^' if negated else ''}{''.join(ranges)}]", position + 1


def _member(pattern: str, position: int) -> tuple[str, int]:
    if position < len(pattern) and pattern[position] == "\\":
        position += 1
    if position >= len(pattern) or pattern[position] in "-]":
        raise ValueError(f"the pattern {pattern} has a bad character class")
    return pattern[position], position + 1
