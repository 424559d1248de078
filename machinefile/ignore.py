""".dockerignore: which files of a context are not there. Docker's rules, which are not gitignore's.

A pattern matches from the root of the context. What it matches is ignored with all that is below; `!` brings back
what an earlier pattern took; the last pattern that matches decides. Source: moby/patternmatcher.
"""

from __future__ import annotations

import posixpath

from machinefile.errors import MachinefileError
from machinefile.lines import SPACE
from machinefile.source import Source, Span
from machinefile.values import dataclass
from machinefile.wildcards import Wildcard, compile_wildcard


@dataclass(frozen=True, slots=True)
class IgnoreRule:
    """One line of the file."""

    pattern: str
    """Cleaned, relative, without the `!`."""
    keep: bool
    """`!`: what matches is not ignored."""
    wildcard: Wildcard

    def matches_or_parent(self, path: str, parents: list[str]) -> bool:
        """Whether the path or one of the folders above it fits."""
        return self.wildcard.matches(path) or any(map(self.wildcard.matches, parents))

    def may_match_below(self, directory: str) -> bool:
        """Whether something below a folder could fit. May say yes without need, never no wrongly."""
        literal, inside = self.wildcard.literal, f"{directory}/"
        return f"{literal}/".startswith(inside) or (inside.startswith(literal) and literal != self.pattern)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """What a .dockerignore says."""

    rules: tuple[IgnoreRule, ...] = ()

    @classmethod
    def parse(cls, text: str, name: str = ".dockerignore") -> IgnoreRules:
        """Read the file. Raises MachinefileError for a bad pattern."""
        source = Source(name, text)
        rules = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if line.startswith("#") or not line.strip(SPACE):
                continue
            written = line.strip(SPACE)
            try:
                rule = _rule(written)
            except ValueError as error:
                span = Span(source, number, 1, number, len(line) + 1)
                hint = "write \\ before a special character, or mend the line"
                raise MachinefileError.one(str(error), code="bad-ignore-pattern", span=span, hint=hint) from None
            if rule is not None:
                rules.append(rule)
        return cls(tuple(rules))

    def ignored(self, path: str) -> bool:
        """Whether a path, relative to the context, is ignored."""
        if not self.rules:
            return False
        names = path.split("/")
        parents = ["/".join(names[:count]) for count in range(1, len(names))]
        found = False
        for rule in self.rules:
            if rule.keep == found and rule.matches_or_parent(path, parents):
                found = not rule.keep
        return found

    def patterns(self) -> tuple[str, ...]:
        """Lines that parse to the same rules."""
        return tuple(f"{'!' if rule.keep else ''}{_written(rule.pattern)}" for rule in self.rules)

    def prunes(self, directory: str) -> bool:
        """Whether all that is below a folder is ignored too, so that a walk need not enter it."""
        if not self.ignored(directory):
            return False
        return not any(rule.keep and rule.may_match_below(directory) for rule in self.rules)


def _written(pattern: str) -> str:
    """With the slash before it none is taken for a comment, with the one after it no space at its end is lost."""
    before = "" if pattern in (".", "..") or pattern.startswith("../") else "/"
    return f"{before}{pattern}/" if pattern[-1] in SPACE else f"{before}{pattern}"


def _rule(written: str) -> IgnoreRule | None:
    keep = written.startswith("!")
    pattern = written[1:].strip(SPACE) if keep else written
    if not pattern:
        raise ValueError("! needs a pattern")
    pattern = posixpath.normpath(pattern).lstrip("/") or "."
    if pattern == ".":
        return None if keep else IgnoreRule(".", False, compile_wildcard(".", double_star=True))
    return IgnoreRule(pattern, keep, compile_wildcard(pattern, double_star=True))
