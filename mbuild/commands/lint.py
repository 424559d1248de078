"""`mbuild lint`: what a Machinefile may say and probably should not."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from engine.images.registry_flags import RegistryFlags
from engine.images.source import ImageSources
from engine.lockcheck import pins_of, refuse_unpinned_bases
from engine.pins import Pins
from machinefile.errors import MachinefileError, TransferError
from machinefile.lint.linter import LintResult, lint, nothing_known
from machinefile.lint.rule import Finding
from machinefile.resolve import Lookup
from machinefile.steps import BaseImage, BaseReference
from mbuild.arguments import Parser, add_build_options, registry_flags
from mbuild.report import excerpt
from mbuild.request import read_request
from mbuild.sarif import to_sarif

FOUND = 1
"""The exit code when there are findings, as docker build --check has it."""


def main(arguments: Sequence[str], cancelled: threading.Event) -> int:
    """Check a Machinefile: 0 when nothing is found, 1 when something is, 2 when the file is wrong."""
    parser = Parser(prog="mbuild lint", description="Check a Machinefile; builds nothing. docs/lint.md has the checks.")
    add_build_options(parser)
    parser.add_argument(
        "--format", choices=("text", "json", "sarif"), default="text", help="how to print (default: text)"
    )
    parser.add_argument(
        "--offline", action="store_true", help="ask no registry; what a base image sets is then taken for unset"
    )
    options = parser.parse_args(arguments)
    return lint_request(options, options.format, cancelled, offline=options.offline)


def lint_request(options: argparse.Namespace, form: str, cancelled: threading.Event, *, offline: bool = False) -> int:
    """Check what the options of a build name, and print what is found.

    Raises UsageError, and MachinefileError after printing where the file itself is wrong.
    """
    result = _lint(options, cancelled, offline=offline)
    text = _shown(result, form)
    if text:
        print(text)
    for note in result.notes:
        place = f"{note.span}: " if note.span else ""
        print(_printable(f"mbuild: {place}{note.message}" + (f": {note.hint}" if note.hint else "")), file=sys.stderr)
    if result.problems:
        raise MachinefileError(result.problems)
    return FOUND if result.findings else 0


def _lint(options: argparse.Namespace, cancelled: threading.Event, *, offline: bool) -> LintResult:
    try:
        request = read_request(options)
        with ExitStack() as stack:
            pins = pins_of(request)
            lookup = nothing_known if offline else _bases(stack, cancelled, registry_flags(options), pins)
            if pins is not None and request.locked:
                refuse_unpinned_bases(request, pins, lookup)
            results = [
                lint(request.machinefile, wanted, lookup=lookup, ignored=request.ignore.prunes)
                for wanted in request.for_each_platform().values()
            ]
            return _together(results)
    except MachinefileError as error:
        return LintResult(problems=error.problems)


def _together(results: Sequence[LintResult]) -> LintResult:
    """What was found for several platforms; what they have in common once."""
    findings = {(one.rule.name, one.message, str(one.span)): one for result in results for one in result.findings}
    notes = {(note.code, note.message, str(note.span)): note for result in results for note in result.notes}
    problems = {(one.code, one.message, str(one.span)): one for result in results for one in result.problems}
    return LintResult(
        tuple(findings.values()), tuple(notes.values()), tuple(problems.values()), any(one.error for one in results)
    )


def _bases(stack: ExitStack, cancelled: threading.Event, flags: RegistryFlags, pins: Pins | None) -> Lookup:
    """Asks registries about base images, impatiently; after one that can't be had it asks no more."""
    from engine.images.policy import TransferPolicy

    policy = TransferPolicy(attempts=2, connect_attempts=1, connect_timeout=5.0, read_timeout=10.0)
    source = stack.enter_context(ImageSources(Path.cwd(), flags=flags, policy=policy, cancelled=cancelled))
    failed = False

    def lookup(reference: BaseReference) -> BaseImage:
        nonlocal failed
        if failed or reference.reference.startswith("context:"):  # what --build-context names is not opened
            return nothing_known(reference)
        try:
            return (pins.resolve(reference, source.resolve) if pins is not None else source.resolve(reference)).base
        except TransferError as error:
            failed = True
            message = f"mbuild: {reference.reference} could not be looked up, so less is checked: {error.message}"
            print(_printable(message), file=sys.stderr)
            return nothing_known(reference)

    return lookup


def _shown(result: LintResult, form: str) -> str:
    if form == "json":
        return json.dumps(_sound([_fields(finding) for finding in result.findings]), indent=2)
    if form == "sarif":
        return json.dumps(_sound(to_sarif(result.findings, result.problems, error=result.error)), indent=2)
    lines = [line for finding in result.findings for line in _lines(finding)]
    if not result.problems:
        count = len(result.findings)
        lines.append(f"{count} warning{'s' if count != 1 else ''}" if count else "no warnings")
    return _printable("\n".join(lines))


def _lines(finding: Finding) -> list[str]:
    head = f"{finding.span}: warning: {finding.rule.name}: {finding.message}"
    return [head, *excerpt(finding.span), f"  {finding.hint}"]


def _fields(finding: Finding) -> dict[str, object]:
    span = finding.span
    return {
        "rule": finding.rule.name,
        "description": finding.rule.description,
        "message": finding.message,
        "hint": finding.hint,
        "file": span.source.name,
        "line": span.line,
        "column": span.column,
        "end_line": span.end_line,
        "end_column": span.end_column,
    }


def _printable(text: str) -> str:
    """Text that drives no terminal and that every encoding of Unicode can take."""
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def _sound(value: object) -> object:
    """The same value without halves of characters, which JSON's readers refuse: bytes that were no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _sound(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_sound(item) for item in value]
    return value
