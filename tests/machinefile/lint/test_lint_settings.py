"""Which rules count: the directive, the --build-arg, and what they may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from machinefile.errors import MachinefileError
from machinefile.imageconfig import ImageConfig
from machinefile.lint.linter import lint, resolve_and_lint
from machinefile.lint.registry import RULES
from machinefile.lint.settings import BUILD_ARG, CheckSettings, parse_settings
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.source import Source
from machinefile.steps import BaseImage, BaseReference

BODY = "# hello\nFROM scratch as base\ncopy Dockerfile .\n"


def names(directive: str, given: str | None = None) -> list[str]:
    text = f"# check={directive}\n{BODY}" if directive else f"\n{BODY}"
    build_args = ((BUILD_ARG, given),) if given is not None else ()
    result = lint(parse(Source("M", text)), BuildOptions(build_args=build_args))
    return [finding.rule.name for finding in result.findings]


def nothing(reference: BaseReference) -> BaseImage:
    return BaseImage("", ImageConfig())


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("", ["FromAsCasing", "ConsistentInstructionCasing"]),
        ("skip=all", []),
        ("skip=all;error=true", []),
        ("error=true", ["FromAsCasing", "ConsistentInstructionCasing"]),
        ("skip=FromAsCasing", ["ConsistentInstructionCasing"]),
        (" skip = FromAsCasing , ConsistentInstructionCasing ", []),
        ("error=false;skip=ConsistentInstructionCasing", ["FromAsCasing"]),
        ("skip=fromascasing", ["FromAsCasing", "ConsistentInstructionCasing"]),
        ("skip=all;experimental=InvalidDefinitionDescription", ["InvalidDefinitionDescription"]),
        ("experimental=all;skip=all,InvalidDefinitionDescription", ["InvalidDefinitionDescription"]),
        ("experimental=CopyIgnoredFile", ["FromAsCasing", "ConsistentInstructionCasing"]),
    ],
)
def test_the_directive_says_which_rules_count(directive: str, expected: list[str]) -> None:
    assert names(directive) == expected


def test_a_build_arg_stands_in_place_of_the_directive() -> None:
    assert names("skip=all", "skip=ConsistentInstructionCasing") == ["FromAsCasing"]
    assert names("error=true", "skip=all") == []
    assert names("skip=all", "") == []


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("skip", "the directive check does not know skip", "did you mean skip?"),
        ("skpi=all", "the directive check does not know skpi=all", "did you mean skip?"),
        ("quiet=1", "the directive check does not know quiet=1", "for example"),
        ("skip=all;", "the directive check has an empty part", "for example"),
        ("=x", "the directive check does not know =x", "for example"),
        ("error=yes", "the directive check: error is true or false, not yes", "for example"),
        ("error=", "the directive check: error is true or false, not empty", "for example"),
    ],
)
def test_a_directive_that_means_nothing_is_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(MachinefileError) as caught:
        names(text)
    assert (caught.value.code, caught.value.message) == ("bad-check", message)
    assert caught.value.hint.startswith(hint)
    assert str(caught.value.span) == "M:1:9"


def test_a_build_arg_that_means_nothing_is_named() -> None:
    with pytest.raises(MachinefileError, match=f"--build-arg {BUILD_ARG} does not know nonsense") as caught:
        names("", "nonsense")
    assert caught.value.span is None


def test_an_unknown_rule_is_a_note_with_the_nearest_name() -> None:
    text = "# check=skip=FromAsCase,Nothing;experimental=all\nFROM scratch\n"
    result = lint(parse(Source("M", text)), BuildOptions())
    assert [(note.code, note.message, note.hint, str(note.span)) for note in result.notes] == [
        ("unknown-check", "there is no check FromAsCase", "did you mean FromAsCasing?", "M:1:9"),
        ("unknown-check", "there is no check Nothing", "docs/lint.md lists the checks", "M:1:9"),
    ]
    assert result.findings == ()


def test_settings_are_values() -> None:
    expected = CheckSettings(frozenset({"A", "B"}), frozenset({"all"}), True)
    assert parse_settings("skip=A, B;error=T;experimental=all", "x") == expected
    assert expected.names == {"A", "B"}


def test_error_refuses_a_build_with_every_finding() -> None:
    machinefile = parse(Source("M", f"# check=error=true;skip=FromAsCasing\n{BODY}MAINTAINER x\n"))
    with pytest.raises(MachinefileError) as caught:
        resolve_and_lint(machinefile, BuildOptions(), nothing)
    assert [(problem.code, str(problem.span)) for problem in caught.value.problems] == [
        ("lint-failed", "M:4:1"),
        ("lint-failed", "M:5:1"),
    ]
    assert caught.value.message.startswith("ConsistentInstructionCasing: ")
    assert caught.value.exit_code == 2


def test_error_lets_a_clean_file_pass() -> None:
    machinefile = parse(Source("M", "# check=error=true\nFROM scratch\n"))
    graph, result = resolve_and_lint(machinefile, BuildOptions(), nothing)
    assert (result.findings, result.error) == ((), True)
    assert graph.target == "0"


def test_a_build_checks_only_the_stages_it_needs() -> None:
    text = "FROM scratch AS unused\nENV a b\nCOPY $x /\nFROM scratch AS Last\nENV c d\n"
    _, result = resolve_and_lint(parse(Source("M", text)), BuildOptions(), nothing)
    found = [(finding.rule.name, finding.span.line) for finding in result.findings]
    assert found == [("StageNameCasing", 4), ("LegacyKeyValueFormat", 5)]


def test_an_undefined_variable_is_found_once() -> None:
    text = "FROM scratch\nCOPY $x $x /\n"
    _, result = resolve_and_lint(parse(Source("M", text)), BuildOptions(), nothing)
    assert [str(finding.span) for finding in result.findings] == ["M:2:6", "M:2:9"]
    assert result.notes == ()


def test_the_documentation_lists_every_check() -> None:
    text = (Path(__file__).parents[3] / "docs" / "lint.md").read_text(encoding="utf-8")
    for rule in RULES:
        star = " *" if rule.experimental else ""
        assert f"| `{rule.name}`{star} | {rule.description} | {rule.mend} |" in text
