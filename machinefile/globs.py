"""Patterns in the sources of COPY and ADD: Go's filepath.Match."""

from __future__ import annotations

from machinefile.wildcards import compile_wildcard


def matches(pattern: str, path: str) -> bool:
    """Whether a relative path fits a pattern; `*` and `?` never match a slash. Raises ValueError for a bad pattern."""
    return compile_wildcard(pattern, double_star=False).matches(path)


def has_wildcards(pattern: str) -> bool:
    """Whether a source is a pattern rather than a plain path."""
    position = 0
    while position < len(pattern):
        if pattern[position] in "*?[":
            return True
        position += 2 if pattern[position] == "\\" else 1
    return False
