"""Findings as SARIF, the format that code hosts read. Source: OASIS, SARIF 2.1.0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from machinefile.errors import Problem
from machinefile.lint.registry import RULES
from machinefile.lint.rule import Finding, Rule
from machinefile.source import Source, Span

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_INDEX = {rule.name: index for index, rule in enumerate(RULES)}


def to_sarif(findings: Sequence[Finding], problems: Sequence[Problem], *, error: bool = False) -> dict[str, Any]:
    """One run's log. With `error` findings count as errors; mistakes in the file always do."""
    results = [_finding(finding, "error" if error else "warning") for finding in findings]
    results += map(_problem, problems)
    run = {
        "tool": {"driver": {"name": "mbuild", "rules": [_rule(rule) for rule in RULES]}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.name,
        "name": rule.name,
        "shortDescription": {"text": rule.description},
        "help": {"text": rule.mend},
        "defaultConfiguration": {"enabled": not rule.experimental, "level": "warning"},
    }


def _finding(finding: Finding, level: str) -> dict[str, Any]:
    return {
        "ruleId": finding.rule.name,
        "ruleIndex": _INDEX[finding.rule.name],
        "level": level,
        "message": {"text": f"{finding.message}: {finding.hint}" if finding.hint else finding.message},
        "locations": [_location(finding.span)],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    text = f"{problem.message}: {problem.hint}" if problem.hint else problem.message
    found: dict[str, Any] = {"ruleId": problem.code, "level": "error", "message": {"text": text}}
    if problem.span is not None:
        found["locations"] = [_location(problem.span)]
    return found


def _location(span: Span) -> dict[str, Any]:
    region = {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": span.end_line,
        "endColumn": span.end_column,
    }
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(span.source)}, "region": region}}


def _uri(source: Source) -> str:
    """A URI reference: relative for a relative path."""
    if source.name == "-":
        return "stdin"
    path = PurePath(source.name)
    text = quote(path.as_posix(), errors="surrogateescape")
    return f"file://{text}" if path.is_absolute() else text
