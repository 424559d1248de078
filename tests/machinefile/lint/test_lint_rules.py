"""Every rule: files that break it, with the place of each finding, and files that don't."""

from __future__ import annotations

import pytest

from machinefile.ignore import IgnoreRules
from machinefile.imageconfig import ImageConfig
from machinefile.lint.linter import LintResult, lint
from machinefile.lint.references import may_name_image
from machinefile.lint.registry import BY_NAME, RULES
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.platform import Platform
from machinefile.source import Source
from machinefile.steps import BaseImage, BaseReference

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
IGNORE = "*.log\nsecret\nbuild\n!build/keep\n"

BASES = {
    "base": BaseImage("sha256:1", ImageConfig(env=(("BASE_SET", "1"),)), AMD64),
    "shelled": BaseImage("sha256:2", ImageConfig(shell=("/bin/bash", "-c")), AMD64),
    "for-arm": BaseImage("sha256:3", ImageConfig(), ARM64),
    "mute": BaseImage("sha256:4", ImageConfig()),
}


def known(reference: BaseReference) -> BaseImage:
    return BASES.get(reference.reference, BaseImage("", ImageConfig()))


def check(text: str, **options: object) -> LintResult:
    chosen: dict[str, object] = {"platform": AMD64, "build_platform": AMD64, **options}
    ignored = IgnoreRules.parse(IGNORE).prunes
    machinefile = parse(Source("M", text))
    return lint(machinefile, BuildOptions(**chosen), lookup=known, ignored=ignored)  # type: ignore[arg-type]


def places(result: LintResult, name: str) -> list[str]:
    spans = [finding.span for finding in result.findings if finding.rule.name == name]
    return [f"{span.line}:{span.column}-{span.end_line}:{span.end_column}" for span in spans]


ALL = "# check=experimental=all\n"

BROKEN = [
    ("StageNameCasing", "FROM scratch AS Build", ["1:17-1:22"]),
    ("StageNameCasing", "FROM scratch AS a\nFROM scratch AS aB\nFROM a as C", ["2:17-2:19", "3:11-3:12"]),
    ("FromAsCasing", "FROM scratch as a", ["1:14-1:16"]),
    ("FromAsCasing", "from scratch AS a\nFROM scratch aS b", ["1:14-1:16", "2:14-2:16"]),
    ("NoEmptyContinuation", "FROM base\nRUN a \\\n\n b", ["3:1-3:2"]),
    ("NoEmptyContinuation", "FROM base\nRUN a \\\n # c\n  \n\n b\nENV A=1 \\\n\n B=2", ["4:1-4:3", "8:1-8:2"]),
    ("ConsistentInstructionCasing", "FROM base\nrun a\nRUN b", ["2:1-2:4"]),
    ("ConsistentInstructionCasing", "from base\nRUN a\nrun b", ["2:1-2:4"]),
    ("ConsistentInstructionCasing", "From base\nRUN a", ["1:1-1:5"]),
    ("ConsistentInstructionCasing", "FROM base\nrun a", ["2:1-2:4"]),
    ("DuplicateStageName", "FROM base AS a\nFROM base AS a", ["2:14-2:15"]),
    ("DuplicateStageName", "FROM base AS a\nFROM base AS A\nFROM base AS b\nFROM a AS a", ["2:14-2:15", "4:11-4:12"]),
    ("ReservedStageName", "FROM scratch AS scratch", ["1:17-1:24"]),
    ("ReservedStageName", "FROM base AS Context\nFROM base AS scratch", ["1:14-1:21", "2:14-2:21"]),
    ("JSONArgsRecommended", "FROM base\nCMD run me", ["2:1-2:11"]),
    ("JSONArgsRecommended", "FROM base\nENTRYPOINT [broken\nCMD x", ["2:1-2:19", "3:1-3:6"]),
    ("JSONArgsRecommended", 'FROM base\nCMD a\nSHELL ["/bin/bash"]', ["2:1-2:6"]),
    ("MaintainerDeprecated", "FROM base\nMAINTAINER me", ["2:1-2:14"]),
    ("MaintainerDeprecated", "FROM base\nMAINTAINER a\nFROM scratch\nmaintainer b", ["2:1-2:13", "4:1-4:13"]),
    ("UndefinedArgInFrom", "FROM base:$TAG", ["1:6-1:15"]),
    ("UndefinedArgInFrom", "ARG A=x\nFROM base:${A}${B} AS c\nFROM base:$C", ["2:6-2:19", "3:6-3:13"]),
    ("UndefinedArgInFrom", "FROM --platform=linux/$ARCH base", ["1:6-1:28"]),
    ("WorkdirRelativePath", "FROM base\nWORKDIR app/", ["2:9-2:13"]),
    (
        "WorkdirRelativePath",
        "FROM base\nENV D=d\nWORKDIR $D\nWORKDIR e\nFROM base\nWORKDIR f",
        ["3:9-3:11", "6:9-6:10"],
    ),
    ("UndefinedVar", "FROM base\nCOPY $a $b", ["2:6-2:8", "2:9-2:11"]),
    ("UndefinedVar", "FROM base\nENV PATH=$PAHT:/bin\nFROM scratch\nLABEL a=${X}", ["2:5-2:20", "4:7-4:13"]),
    ("UndefinedVar", "FROM base\nCOPY $foo .\nARG foo", ["2:6-2:10"]),
    ("UndefinedVar", "FROM base AS a\nARG X=1\nFROM base\nUSER $X", ["4:6-4:8"]),
    ("UndefinedVar", "FROM mute\nUSER $BASE_SET", ["2:6-2:15"]),
    ("UndefinedVar", "ARG A=$B\nFROM base", ["1:5-1:9"]),
    ("MultipleInstructionsDisallowed", 'FROM base\nCMD ["a"]\nRUN x\nCMD ["b"]', ["2:1-2:10"]),
    (
        "MultipleInstructionsDisallowed",
        'FROM base\nENTRYPOINT ["a"]\nENTRYPOINT ["b"]\nENTRYPOINT ["c"]\nHEALTHCHECK CMD x\nHEALTHCHECK NONE',
        ["2:1-2:17", "3:1-3:17", "5:1-5:18"],
    ),
    ("LegacyKeyValueFormat", "FROM base\nENV a b c", ["2:5-2:10"]),
    ("LegacyKeyValueFormat", "FROM base\nLABEL a b\nFROM base\nENV x y", ["2:7-2:10", "4:5-4:8"]),
    ("InvalidBaseImagePlatform", "FROM for-arm", ["1:6-1:13"]),
    ("InvalidBaseImagePlatform", "FROM --platform=linux/arm64 base\nFROM for-arm AS x", ["1:29-1:33", "2:6-2:13"]),
    ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM base", ["1:6-1:32"]),
    ("RedundantTargetPlatform", "FROM base\nFROM --platform=${TARGETPLATFORM:-x} base", ["2:6-2:37"]),
    ("SecretsUsedInArgOrEnv", "FROM base\nARG SECRET_PASSPHRASE", ["2:5-2:22"]),
    ("SecretsUsedInArgOrEnv", "FROM base\nENV password=bar secret=baz", ["2:5-2:17", "2:18-2:28"]),
    (
        "SecretsUsedInArgOrEnv",
        "FROM base\nARG a=1 my_auth=2\nENV apikey=3 sunflower=4\nENV git_key=",
        ["2:9-2:18", "3:5-3:13", "4:5-4:13"],
    ),
    ("InvalidDefaultArgInFrom", "ARG V\nFROM busybox:$V", ["2:6-2:16"]),
    ("InvalidDefaultArgInFrom", 'ARG SFX="box:"\nFROM busy${SFX}', ["2:6-2:16"]),
    ("InvalidDefaultArgInFrom", "ARG A\nARG B=UP\nFROM $A\nFROM $B", ["3:6-3:8", "4:6-4:8"]),
    ("FromPlatformFlagConstDisallowed", "FROM --platform=linux/amd64 base", ["1:6-1:28"]),
    ("FromPlatformFlagConstDisallowed", "FROM --platform=arm64 base AS tools", ["1:6-1:22"]),
    ("CopyIgnoredFile", ALL + "FROM base\nCOPY a.log b /x/\nADD ./secret /y", ["3:6-3:11", "4:5-4:13"]),
    ("CopyIgnoredFile", ALL + "FROM base\nENV F=secret/deep\nCOPY --link /$F b", ["4:13-4:16"]),
    ("InvalidDefinitionDescription", ALL + "# bar is\nARG foo=bar\nFROM base", ["3:1-3:12"]),
    ("InvalidDefinitionDescription", ALL + "# BasE is\nFROM base AS base\n# bad\nARG a b=1", ["3:1-3:18", "5:1-5:10"]),
    ("ExposeProtoCasing", "FROM base\nEXPOSE 80/TCP 81/udp 82/Udp", ["2:8-2:14", "2:22-2:28"]),
    ("ExposeProtoCasing", "FROM base\nENV P=53/UDP\nEXPOSE $P", ["3:8-3:10"]),
    ("ExposeInvalidFormat", "FROM base\nEXPOSE 127.0.0.1:80:80 81 5000:5000", ["2:8-2:23", "2:27-2:36"]),
    ("ExposeInvalidFormat", "FROM base\nEXPOSE [::1]:80:80/tcp", ["2:8-2:23"]),
]

FINE = [
    ("StageNameCasing", "FROM scratch AS build-1.x_y"),
    ("StageNameCasing", "FROM Base"),
    ("FromAsCasing", "FROM scratch AS a\nfrom scratch as b"),
    ("FromAsCasing", "From scratch as a\nFROM base"),
    ("NoEmptyContinuation", "FROM base\nRUN a \\\n# comment\n b"),
    ("NoEmptyContinuation", "FROM base\nRUN <<EOF\n\nEOF\n\nRUN b"),
    ("ConsistentInstructionCasing", "from base\nrun a\nrun b"),
    ("ConsistentInstructionCasing", "arg A=1\nFROM base\nRUN <<run\nx\nrun\nONBUILD run a"),
    ("DuplicateStageName", "FROM base AS a\nFROM base AS b"),
    ("DuplicateStageName", "FROM base\nFROM base"),
    ("ReservedStageName", "FROM scratch\nFROM scratch AS a"),
    ("ReservedStageName", "FROM base AS contexts"),
    ("JSONArgsRecommended", 'FROM base\nCMD ["a"]\nENTRYPOINT []'),
    ("JSONArgsRecommended", 'FROM base AS a\nSHELL ["/bin/bash", "-c"]\nFROM a\nCMD b'),
    ("JSONArgsRecommended", "FROM shelled\nENTRYPOINT a\nRUN b"),
    ("JSONArgsRecommended", "FROM base\nONBUILD CMD a\nHEALTHCHECK CMD b"),
    ("MaintainerDeprecated", "FROM base\nLABEL maintainer=me"),
    ("MaintainerDeprecated", "FROM base\nRUN MAINTAINER"),
    ("UndefinedArgInFrom", "ARG base=scratch\nFROM $base"),
    ("UndefinedArgInFrom", "ARG DEBUG\nFROM scratch${DEBUG}"),
    ("UndefinedArgInFrom", "FROM --platform=$BUILDPLATFORM base:${TAG:-1}"),
    ("WorkdirRelativePath", "FROM base AS a\nWORKDIR /app\nFROM a\nWORKDIR sub"),
    ("WorkdirRelativePath", "FROM base\nENV D=/d\nWORKDIR $D/x\nWORKDIR y"),
    ("UndefinedVar", "FROM base\nARG foo\nCOPY a${foo} ."),
    ("UndefinedVar", "FROM base AS a\nARG foo=x\nFROM a\nCOPY $foo ."),
    ("UndefinedVar", "FROM base\nUSER $BASE_SET\nENV A=${B:-c} PATH=$PATH:x\nRUN echo $X\nCMD $Y"),
    ("UndefinedVar", "ARG A\nARG B=$A\nFROM base\nCOPY <<'E' x\n$a\nE"),
    ("MultipleInstructionsDisallowed", 'FROM base AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\nENTRYPOINT ["c"]'),
    ("MultipleInstructionsDisallowed", 'FROM base\nCMD ["a"]\nONBUILD CMD ["b"]\nRUN a\nRUN b'),
    ("LegacyKeyValueFormat", "FROM base\nENV a=b c=d\nLABEL e='f g'"),
    ("LegacyKeyValueFormat", "FROM base\nARG a\nARG b c"),
    ("InvalidBaseImagePlatform", "FROM base\nFROM scratch\nFROM mute\nFROM unknown"),
    ("InvalidBaseImagePlatform", "FROM --platform=linux/arm64 for-arm AS x\nFROM x"),
    ("RedundantTargetPlatform", "FROM --platform=$BUILDPLATFORM base"),
    ("RedundantTargetPlatform", "FROM --platform=${TARGETPLATFORM}${X:-} base\nFROM --platform=linux/$TARGETARCH base"),
    ("SecretsUsedInArgOrEnv", "ARG TOKEN\nFROM base\nENV PUBLIC_KEY= monkey=1"),
    ("SecretsUsedInArgOrEnv", "FROM base\nARG public_token secret_file TOKEN_VERSION\nLABEL password=1"),
    ("InvalidDefaultArgInFrom", 'ARG V="latest"\nFROM busybox:${V}'),
    ("InvalidDefaultArgInFrom", "ARG S\nFROM busybox:stable${S}\nFROM busybox:${T:-1}"),
    ("InvalidDefaultArgInFrom", "ARG N=a\nFROM base AS a-\nFROM ${N}-"),
    (
        "FromPlatformFlagConstDisallowed",
        "FROM --platform=linux/amd64 base AS my_amd64_stage\nFROM --platform=linux/arm64 base AS linux",
    ),
    ("FromPlatformFlagConstDisallowed", "FROM --platform=$BUILDPLATFORM base\nFROM --platform=linux/$TARGETARCH base"),
    ("CopyIgnoredFile", "FROM base\nCOPY secret /"),
    ("CopyIgnoredFile", ALL + "FROM base AS a\nCOPY . build a /x/\nFROM base\nCOPY --from=a /secret /"),
    ("CopyIgnoredFile", ALL + "FROM base\nADD https://example.com/a.log /\nCOPY <<secret secret\nx\nsecret"),
    ("InvalidDefinitionDescription", "# bad\nFROM base AS a"),
    ("InvalidDefinitionDescription", ALL + "# foo is\nARG foo=bar\n\n# a is\nFROM base AS a\n# b is\nARG a b=1"),
    (
        "InvalidDefinitionDescription",
        ALL + "# bad\n\nFROM base AS a\n# bad\n#\nARG a\n# bad\nCOPY a b\n# bad\nFROM base",
    ),
    ("ExposeProtoCasing", "FROM base\nEXPOSE 80 81/tcp 82/udp"),
    ("ExposeProtoCasing", "FROM base\nENV P=1/tcp\nEXPOSE $P"),
    ("ExposeInvalidFormat", "FROM base\nEXPOSE 80 8000-8010/udp"),
    ("ExposeInvalidFormat", "FROM base\nARG P=80\nEXPOSE $P/tcp ${Q:-81}"),
]


@pytest.mark.parametrize(("name", "text", "expected"), BROKEN)
def test_a_rule_finds_each_place_that_breaks_it(name: str, text: str, expected: list[str]) -> None:
    assert places(check(text), name) == expected


@pytest.mark.parametrize(("name", "text"), FINE)
def test_a_rule_leaves_alone_what_keeps_it(name: str, text: str) -> None:
    assert places(check(text), name) == []


def test_every_rule_has_two_files_that_break_it_and_two_that_do_not() -> None:
    for rule in RULES:
        assert sum(name == rule.name for name, _, _ in BROKEN) >= 2, rule.name
        assert sum(name == rule.name for name, _ in FINE) >= 2, rule.name


def test_the_rules_are_those_that_buildkit_documents() -> None:
    assert set(BY_NAME) == {
        "StageNameCasing", "FromAsCasing", "NoEmptyContinuation", "ConsistentInstructionCasing", "DuplicateStageName",
        "ReservedStageName", "JSONArgsRecommended", "MaintainerDeprecated", "UndefinedArgInFrom",
        "WorkdirRelativePath", "UndefinedVar", "MultipleInstructionsDisallowed", "LegacyKeyValueFormat",
        "InvalidBaseImagePlatform", "RedundantTargetPlatform", "SecretsUsedInArgOrEnv", "InvalidDefaultArgInFrom",
        "FromPlatformFlagConstDisallowed", "CopyIgnoredFile", "InvalidDefinitionDescription", "ExposeProtoCasing",
        "ExposeInvalidFormat",
    }  # fmt: skip
    assert len(RULES) == 22
    assert {rule.name for rule in RULES if rule.experimental} == {"CopyIgnoredFile", "InvalidDefinitionDescription"}


def test_a_tidy_file_has_no_findings() -> None:
    text = """\
# syntax=docker/dockerfile:1
ARG VERSION=3.20

FROM --platform=$BUILDPLATFORM base:${VERSION} AS build
WORKDIR /src
COPY . .
RUN make

FROM scratch
COPY --from=build /src/out /
EXPOSE 80/tcp
ENTRYPOINT ["/out"]
"""
    result = check(text)
    assert (result.findings, result.notes, result.problems) == ((), (), ())


def test_findings_come_in_the_order_of_the_file() -> None:
    result = check("from scratch AS A\nMAINTAINER a\nEXPOSE 1/TCP\nCMD x\nENV a b\n")
    places = [(finding.span.line, finding.span.column) for finding in result.findings]
    assert places == sorted(places)
    assert len(places) >= 6


def test_stages_that_nothing_needs_are_checked_too() -> None:
    result = check("FROM base AS unused\nENV a b\nCOPY $x /\nFROM scratch\nCOPY $y /")
    assert places(result, "LegacyKeyValueFormat") == ["2:5-2:8"]
    assert places(result, "UndefinedVar") == ["3:6-3:8", "5:6-5:8"]


def test_a_likely_typo_is_named() -> None:
    (finding,) = check("FROM base\nARG DIR_ASSETS=a\nCOPY $DIR_ASSET .").findings
    assert finding.hint == "did you mean $DIR_ASSETS?"


def test_a_wrong_file_gives_its_mistakes_and_its_findings() -> None:
    result = check("FROM scratch AS Bad\nMAINTAINER me\nEXPOSE no\nFROM $X\n")
    assert [problem.code for problem in result.problems] == ["empty-base"]
    assert {finding.rule.name for finding in result.findings} >= {
        "StageNameCasing", "MaintainerDeprecated", "UndefinedArgInFrom", "InvalidDefaultArgInFrom"
    }  # fmt: skip
    result = check("FROM base AS Bad\nEXPOSE no\n")
    assert [problem.code for problem in result.problems] == ["bad-port"]
    assert places(result, "StageNameCasing") == ["1:14-1:17"]


def test_a_file_without_from_is_wrong_and_still_checked() -> None:
    result = check("MAINTAINER a \\\n\n b\n")
    assert [problem.code for problem in result.problems] == ["before-from", "no-from"]
    assert [finding.rule.name for finding in result.findings] == ["MaintainerDeprecated", "NoEmptyContinuation"]


def test_what_an_unknown_base_may_set_is_not_held_against_the_file() -> None:
    text = "FROM unknown\nUSER ${NAME:?}\nSTOPSIGNAL $SIGNAL\nEXPOSE a$PORT\n"
    result = check(text)
    assert result.problems == ()
    assert places(result, "UndefinedVar") == ["3:12-3:19", "4:8-4:14"]
    assert [problem.code for problem in check(text.replace("unknown", "base")).problems] == [
        "required-variable", "bad-signal", "bad-port"
    ]  # fmt: skip
    assert [problem.code for problem in check("FROM unknown\nEXPOSE no\nUSER $X").problems] == ["bad-port"]


def test_an_unused_build_arg_is_a_note_and_no_finding() -> None:
    result = check("FROM base\nARG NAME", build_args=(("NMAE", "1"),))
    assert [(note.code, note.hint) for note in result.notes] == [("UnusedBuildArg", "did you mean NAME?")]
    assert result.findings == ()


def test_a_build_arg_gives_what_a_default_lacks_and_the_rule_about_defaults_stays() -> None:
    result = check("ARG V\nFROM base:$V", build_args=(("V", "1"),))
    assert [finding.rule.name for finding in result.findings] == ["InvalidDefaultArgInFrom"]


def test_a_backtick_escape_is_understood() -> None:
    result = check("# escape=`\nFROM base\nCOPY `$a `\n\n $b /\n")
    assert places(result, "UndefinedVar") == ["5:2-5:4"]
    assert places(result, "NoEmptyContinuation") == ["4:1-4:2"]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a", True),
        ("a/b/c:1.2", True),
        ("localhost/a", True),
        ("Example.com:5000/a", True),
        ("[::1]:5000/a", True),
        ("REGISTRY/a", True),
        ("a@sha256:" + "0" * 64, True),
        ("a__b--c.d", True),
        ("", False),
        ("a:", False),
        ("A", False),
        ("a/", False),
        ("/a", False),
        ("a//b", False),
        ("a_", False),
        ("a b", False),
        ("a:" + "t" * 129, False),
        ("0" * 64, False),
        ("a@sha256:0", False),
        ("é", False),
    ],
)
def test_what_may_name_an_image(text: str, right: bool) -> None:
    assert may_name_image(text) is right


def test_a_large_file_is_checked_in_a_moment() -> None:
    import time

    text = "FROM base\n" + "ENV A=1 B=$X\nCOPY a b\nEXPOSE 80\nRUN x\n" * 2500
    machinefile = parse(Source("M", text))
    begun = time.process_time()
    lint(machinefile, BuildOptions(), lookup=known)
    assert time.process_time() - begun < 10
