"""Running the rules: over every stage of a file, or over what a build needs of it while it is resolved."""

from __future__ import annotations

from dataclasses import field

from machinefile.errors import MachinefileError, Problem
from machinefile.imageconfig import ImageConfig
from machinefile.instructions import Machinefile
from machinefile.lint.registry import BY_NAME, RULES
from machinefile.lint.rule import Finding
from machinefile.lint.settings import CheckSettings, settings_of
from machinefile.lint.subject import Ignored, Subject, Witness, is_unknown
from machinefile.options import BuildOptions
from machinefile.platform import Platform
from machinefile.report import in_order
from machinefile.resolve import Lookup, resolve, resolve_every_stage
from machinefile.source import Span
from machinefile.stages import Layout, split_stages
from machinefile.steps import BaseImage, BaseReference, BuildGraph
from machinefile.steps import Warning as BuildWarning
from machinefile.suggest import did_you_mean
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class LintResult:
    """What the rules found."""

    findings: tuple[Finding, ...] = ()
    """In the order of the file."""
    notes: tuple[BuildWarning, ...] = ()
    """What else is odd, and no rule's business."""
    problems: tuple[Problem, ...] = ()
    """What is wrong with the file."""
    error: bool = False
    """The file asks that findings stop a build."""


def nothing_known(reference: BaseReference) -> BaseImage:
    """The lookup that knows no image."""
    return BaseImage("", ImageConfig())


def lint(
    machinefile: Machinefile,
    options: BuildOptions,
    *,
    lookup: Lookup = nothing_known,
    ignored: Ignored | None = None,
) -> LintResult:
    """Check every stage. Raises MachinefileError (`bad-check`) alone, and what `lookup` raises.

    A base that `lookup` gives no platform for counts as unknown: what it may set is taken for unset, and what is
    only wrong because of that is not reported as wrong.
    """
    settings = settings_of(machinefile, options)
    known = _Known(lookup)
    witness = Witness()
    report = resolve_every_stage(machinefile, options, known, witness)
    problems = in_order(report.problems)
    if any(is_unknown(use.base, known.platforms) for use in witness.uses):
        problems = [problem for problem in problems if not _hangs_on_base(problem, machinefile, report.warnings)]
    subject = Subject(
        machinefile,
        _layout(machinefile),
        options,
        tuple(witness.uses),
        tuple(report.warnings),
        known.platforms,
        ignored,
    )
    return LintResult(_findings(subject, settings), _notes(subject, settings), tuple(problems), settings.error)


def resolve_and_lint(
    machinefile: Machinefile, options: BuildOptions, lookup: Lookup, ignored: Ignored | None = None
) -> tuple[BuildGraph, LintResult]:
    """Resolve what the target needs, and check it on the way.

    Raises MachinefileError: as machinefile.resolve does, `bad-check`, or `lint-failed` where the file asks that
    findings stop a build.
    """
    settings = settings_of(machinefile, options)
    known = _Known(lookup)
    witness = Witness()
    graph = resolve(machinefile, options, known, witness)
    subject = Subject(
        machinefile, _layout(machinefile), options, tuple(witness.uses), graph.warnings, known.platforms, ignored
    )
    findings = _findings(subject, settings)
    if findings and settings.error:
        raise MachinefileError([_refusal(finding) for finding in findings])
    return graph, LintResult(findings, _notes(subject, settings), (), settings.error)


@dataclass(slots=True)
class _Known:
    """A lookup that remembers what the images run on."""

    lookup: Lookup
    platforms: dict[BaseReference, Platform] = field(default_factory=dict)

    def __call__(self, reference: BaseReference) -> BaseImage:
        image = self.lookup(reference)
        if image.platform is not None:
            self.platforms[reference] = image.platform
        return image


def _layout(machinefile: Machinefile) -> Layout:
    try:
        return split_stages(machinefile)
    except MachinefileError:
        return Layout((), ())  # resolving says why


def _findings(subject: Subject, settings: CheckSettings) -> tuple[Finding, ...]:
    found: dict[tuple[str, str, Span], Finding] = {}
    for rule in RULES:
        if settings.allows(rule):
            for hit in rule.check(subject):
                finding = Finding(rule, hit.message, hit.span, hit.hint or rule.mend)
                found.setdefault((rule.name, hit.message, hit.span), finding)
    return tuple(sorted(found.values(), key=lambda finding: (finding.span.line, finding.span.column)))


def _notes(subject: Subject, settings: CheckSettings) -> tuple[BuildWarning, ...]:
    """What resolving warned of beside the rules, and rules that are named and don't exist."""
    notes = [warning for warning in subject.warnings if warning.code not in BY_NAME]
    for name in sorted(settings.names - BY_NAME.keys()):
        hint = did_you_mean(name, BY_NAME, "docs/lint.md lists the checks")
        notes.append(BuildWarning(f"there is no check {name}", "unknown-check", settings.span, hint))
    return tuple(notes)


def _refusal(finding: Finding) -> Problem:
    return Problem(f"{finding.rule.name}: {finding.message}", "lint-failed", finding.span, finding.hint)


def _hangs_on_base(problem: Problem, machinefile: Machinefile, warnings: list[BuildWarning]) -> bool:
    """Whether a problem may be none once the base's environment is known."""
    if problem.code == "required-variable":
        return True
    lines = _lines(machinefile, problem.span)
    unset = (warning.span for warning in warnings if warning.code == "UndefinedVar")
    return any(span is not None and span.line in lines for span in unset)


def _lines(machinefile: Machinefile, span: Span | None) -> range:
    """The lines of the instruction that stands at a place."""
    for instruction in machinefile.instructions:
        if span is not None and instruction.first_line <= span.line <= instruction.end_line:
            return range(instruction.first_line, instruction.end_line + 1)
    return range(0)
