"""Build arguments: the global scope above the first FROM, the platform's, the predefined proxies."""

from __future__ import annotations

from collections.abc import Mapping

from machinefile.expansion import ExpansionError, expand
from machinefile.imageconfig import Pairs
from machinefile.instructions import Machinefile
from machinefile.options import BuildOptions
from machinefile.platform import Platform
from machinefile.report import Report
from machinefile.source import Span
from machinefile.stages import Layout
from machinefile.suggest import nearest
from machinefile.values import dataclass

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
"""May be given with --build-arg without an ARG; each also in lower case."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What --build-arg, the platforms and the ARGs before the first FROM amount to."""

    given: Mapping[str, str]
    """--build-arg."""
    everywhere: Mapping[str, str]
    """What a FROM sees, and what an ARG without a default takes its value from."""
    proxy: Pairs
    """Proxy settings given with --build-arg, in both cases of their names, sorted."""


def global_arguments(machinefile: Machinefile, layout: Layout, options: BuildOptions, report: Report) -> Arguments:
    """The global scope of a build."""
    given = dict(options.build_args)
    scope = platform_arguments(options)
    scope.update((name, given[name]) for name in scope.keys() & given.keys())
    declared: set[str] = set()
    for instruction in layout.arguments:
        for pair in instruction.pairs:
            value = given.get(pair.name)
            if value is None and pair.value is not None:
                try:
                    expanded = expand(pair.value, scope, machinefile.escape)
                except ExpansionError as error:
                    report.problem(error.message, error.code, instruction.span_of(pair), error.hint)
                    continue
                value = expanded.text
                for name in expanded.unset:
                    if name not in declared:
                        warn_unset(report, name, scope, instruction.span_of(pair))
            declared.add(pair.name)
            if value is not None:
                scope[pair.name] = value
    return Arguments(given, scope, _proxies(given))


def platform_arguments(options: BuildOptions) -> dict[str, str]:
    """The arguments that are always in the global scope."""
    return {
        **_platform("BUILD", options.build_platform),
        **_platform("TARGET", options.platform),
        "TARGETSTAGE": options.target or "default",
    }


def _platform(prefix: str, platform: Platform) -> dict[str, str]:
    return {
        f"{prefix}PLATFORM": str(platform),
        f"{prefix}OS": platform.os,
        f"{prefix}OSVERSION": "",
        f"{prefix}ARCH": platform.architecture,
        f"{prefix}VARIANT": platform.variant,
    }


def _proxies(given: Mapping[str, str]) -> Pairs:
    found: dict[str, str] = {}
    for name in sorted(given):
        if name.upper() in PROXIES:
            found[name.upper()] = found[name.lower()] = given[name]
    return tuple(sorted(found.items()))


def check_consumed(layout: Layout, options: BuildOptions, report: Report) -> None:
    """Warn of each --build-arg that no ARG asks for."""
    declared = set(platform_arguments(options))
    declared.update(("SOURCE_DATE_EPOCH", "BUILDKIT_INLINE_CACHE", "BUILDKIT_SYNTAX"))
    instructions = [*layout.arguments, *(each for stage in layout.stages for each in stage.instructions)]
    for instruction in instructions:
        declared.update(pair.name for pair in (instruction.nested or instruction).pairs)
    for name, _ in options.build_args:
        if name not in declared and name.upper() not in PROXIES and not name.startswith("BUILDKIT_"):
            found = nearest(name, declared)
            hint = f"did you mean {found}?" if found else f"add ARG {name} to the stage that needs it"
            report.warn(f"no ARG takes --build-arg {name}", "UnusedBuildArg", None, hint)


def warn_unset(
    report: Report, name: str, known: Mapping[str, str], span: Span | None, code: str = "UndefinedVar"
) -> None:
    """Warn that a variable stands for nothing."""
    found = nearest(name, known)
    hint = f"did you mean ${found}?" if found else f"declare it with ARG {name} or ENV {name}=..."
    message = f"the variable {name} is not set: nothing is put in its place"
    report.warn(message, code, span, hint)
