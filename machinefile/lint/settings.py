"""`# check=skip=...;experimental=...;error=true`: which rules count, and whether they stop a build."""

from __future__ import annotations

from dataclasses import field

from machinefile.errors import MachinefileError
from machinefile.instructions import Machinefile
from machinefile.lint.rule import Rule
from machinefile.options import BuildOptions
from machinefile.source import Span
from machinefile.suggest import did_you_mean
from machinefile.values import dataclass

BUILD_ARG = "BUILDKIT_DOCKERFILE_CHECK"
"""A --build-arg of this name stands in place of the directive."""

_ALL = "all"
_TRUTH = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}
_EXAMPLE = "for example skip=StageNameCasing,FromAsCasing;error=true"


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Which rules count. Source: Docker's documentation, "Checking your build configuration"."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False
    """A finding stops the build."""
    span: Span | None = field(default=None, compare=False)
    """The directive's value; None where there is none, or where a --build-arg gave the settings."""

    def allows(self, rule: Rule) -> bool:
        """Whether a rule counts. As in BuildKit `skip` says nothing about experimental rules."""
        if rule.experimental:
            return _ALL in self.experimental or rule.name in self.experimental
        return _ALL not in self.skip and rule.name not in self.skip

    @property
    def names(self) -> frozenset[str]:
        """Every rule that is named."""
        return (self.skip | self.experimental) - {_ALL}


def settings_of(machinefile: Machinefile, options: BuildOptions) -> CheckSettings:
    """The settings that hold for a build. Raises MachinefileError (`bad-check`)."""
    given = dict(options.build_args).get(BUILD_ARG, "")
    if given.strip():
        return parse_settings(given, f"--build-arg {BUILD_ARG}")
    for directive in machinefile.directives:
        if directive.name == "check":
            return parse_settings(directive.value, "the directive check", directive.span)
    return CheckSettings()


def parse_settings(text: str, what: str, span: Span | None = None) -> CheckSettings:
    """Read the settings; `what` names them in errors. Raises MachinefileError (`bad-check`)."""
    lists: dict[str, frozenset[str]] = {"skip": frozenset(), "experimental": frozenset()}
    error = False
    for part in text.split(";"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in (*lists, "error"):
            hint = did_you_mean(name, (*lists, "error"), _EXAMPLE) if name else _EXAMPLE
            message = f"{what} does not know {part.strip()[:60]}" if part.strip() else f"{what} has an empty part"
            raise MachinefileError.one(message, code="bad-check", span=span, hint=hint)
        if name == "error":
            if value not in _TRUTH:
                message = f"{what}: error is true or false, not {value[:60] or 'empty'}"
                raise MachinefileError.one(message, code="bad-check", span=span, hint=_EXAMPLE)
            error = _TRUTH[value]
        else:
            lists[name] = frozenset(item.strip() for item in value.split(",") if item.strip())
    return CheckSettings(lists["skip"], lists["experimental"], error, span)
