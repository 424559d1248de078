"""A catalogue of mistakes: what is written, and what the user is told, where."""

from __future__ import annotations

import pytest

from machinefile.errors import MachinefileError, Problem
from machinefile.imageconfig import ImageConfig
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.resolve import resolve
from machinefile.source import Source
from machinefile.steps import BaseImage

CATALOGUE = [
    ("FORM a", "unknown-instruction", "1:1", "unknown instruction FORM"),
    ("RUNN x", "unknown-instruction", "1:1", "unknown instruction RUNN"),
    ("copy", "missing-argument", "1:1", "COPY needs a source and a destination"),
    ("ENV", "missing-argument", "1:1", "ENV needs a name and a value"),
    ("ENV A", "missing-value", "1:5", "A has no value: write name=value"),
    ("FROM a\nENV A=1 B", "missing-value", "2:9", "B has no value: write name=value"),
    ('FROM a\nENV A="1', "unclosed-quote", "2:7", 'the quote " is never closed'),
    ("FROM a\nENV A='1", "unclosed-quote", "2:7", "the quote ' is never closed"),
    ("FROM a\nENV =1", "missing-name", "2:5", "ENV has a value without a name"),
    ("FROM a\nLABEL", "missing-argument", "2:1", "LABEL needs a name and a value"),
    ("FROM a\nLABEL a", "missing-value", "2:7", "a has no value: write name=value"),
    ("FROM a\nLABEL a=1 b", "missing-value", "2:11", "b has no value: write name=value"),
    ("ARG", "missing-argument", "1:1", "ARG needs a name"),
    ("ARG =1", "missing-name", "1:5", "ARG has a value without a name"),
    ("FROM", "missing-argument", "1:1", "FROM needs an image"),
    ("FROM a b", "bad-from", "1:8", "FROM does not expect b here"),
    ("FROM a AS", "bad-from", "1:8", "FROM does not expect AS here"),
    ("FROM a AS 1x", "bad-stage-name", "1:11", "1x can't name a stage"),
    ("FROM a AS b c", "bad-from", "1:13", "FROM does not expect c here"),
    ("FROM --platfrom=x a", "unknown-flag", "1:6", "FROM has no flag --platfrom"),
    ("FROM --platform a", "missing-flag-value", "1:6", "--platform needs a value"),
    ("FROM --platform=a/b/c/d a", "bad-platform", "1:6", "a/b/c/d is not a platform"),
    ("FROM $X", "empty-base", "1:6", "FROM $X names no image"),
    ("FROM ${X", "bad-substitution", "1:6", "${X lacks its }"),
    ("FROM a:${X:?set X}", "bad-from", "1:17", "FROM does not expect X} here"),
    ("RUN x", "before-from", "1:1", "RUN stands before the first FROM"),
    ("", "no-from", "", "M has no FROM, so there is nothing to build"),
    ("# only a comment", "no-from", "", "M has no FROM, so there is nothing to build"),
    ("FROM a\nRUN", "missing-argument", "2:1", "RUN needs a command"),
    ("FROM a\nRUN []", "missing-argument", "2:1", "RUN needs a command"),
    ('FROM a\nRUN ["a", 1]', "exec-not-strings", "2:5", "RUN takes a JSON array of strings only"),
    ("FROM a\nRUN --mount x", "missing-flag-value", "2:5", "--mount needs a value"),
    ("FROM a\nRUN --mount=type=cach,target=/x y", "bad-mount", "2:5", "cach is not a type of mount"),
    ("FROM a\nRUN --mount=type=bind,target=/ y", "bad-mount", "2:5", "a mount can't cover the root"),
    ("FROM a\nRUN --mount=type=cache,targt=/x y", "bad-mount", "2:5", "--mount does not know targt"),
    ("FROM a\nRUN --mount=target y", "bad-mount", "2:5", "--mount needs a value for target"),
    ("FROM a\nRUN --mount=type=secret y", "bad-mount", "2:5", "a secret needs an id"),
    ("FROM a\nRUN --mount=type=secret,id=a,mode=9 y", "bad-mount", "2:5", "mode is an octal number, not 9"),
    (
        "FROM a\nRUN --mount=type=tmpfs,target=/x,size=lots y",
        "bad-mount",
        "2:5",
        "size is a size such as 512M, not lots",
    ),
    ("FROM a\nRUN --mount=type=bind,target=/x,size=1 y", "bad-mount", "2:5", "a bind mount takes no size"),
    ("FROM a\nRUN --mount=type=cache,target=/x,sharing=mine y", "bad-mount", "2:5", "sharing can't be mine"),
    ("FROM a\nRUN --mount=from=$X,target=/x y", "bad-mount", "2:5", "variables don't work in a mount's from"),
    ("FROM a\nRUN --mount=target=/x,ro=maybe y", "bad-mount", "2:5", "readonly is true or false, not maybe"),
    ('FROM a\nRUN --mount="target=/x y', "unclosed-quote", "2:13", 'the quote " is never closed'),
    ("FROM a\nRUN --network=hots x", "bad-network", "2:5", "--network can't be hots"),
    ("FROM a\nRUN --network=none --network=none x", "flag-twice", "2:20", "--network is given twice"),
    (
        "FROM a\nRUN --security=insecure x",
        "security-insecure",
        "2:5",
        "--security=insecure is not allowed: a build that needs it is to be told so",
    ),
    ("FROM a\nRUN --security=insecur x", "bad-security", "2:5", "--security can't be insecur"),
    (
        "FROM a\nRUN --device=gpu x",
        "device-refused",
        "2:5",
        "--device is not possible: a step runs in a microVM, which the host's devices can't enter",
    ),
    ("FROM a\nRUN <<EOF\necho", "unterminated-heredoc", "2:5", "the heredoc EOF has no end"),
    ("FROM a\nCOPY", "missing-argument", "2:1", "COPY needs a source and a destination"),
    ("FROM a\nCOPY a", "missing-destination", "2:6", "COPY needs a destination after a"),
    ("FROM a\nCOPY --form=a b c", "unknown-flag", "2:6", "COPY has no flag --form"),
    ("FROM a\nCOPY --link=maybe a b", "bad-flag-value", "2:6", "--link is true or false, not maybe"),
    ("FROM a\nCOPY --chmod=999 a b", "bad-mode", "2:6", "--chmod can't be 999"),
    ("FROM a\nCOPY --chmod=u+q a b", "bad-mode", "2:6", "--chmod can't be u+q"),
    ("FROM a\nCOPY https://x/y /z", "copy-url", "2:1", "COPY can't fetch https://x/y"),
    ("FROM a\nCOPY --from=$X a b", "from-variable", "2:6", "variables don't work in --from"),
    ("FROM a\nCOPY --checksum=x a b", "unknown-flag", "2:6", "COPY has no flag --checksum"),
    ("FROM a\nCOPY a <<EOF\nEOF\n", "heredoc-destination", "2:8", "a heredoc can't be the destination"),
    ('FROM a\nCOPY "a b', "unclosed-quote", "2:6", 'the quote " is never closed'),
    ("FROM a\nADD --checksum=sha256:12 https://x/y /z", "bad-checksum", "2:5", "--checksum can't be sha256:12"),
    (
        "FROM a\nADD --checksum=sha256:12 y /z",
        "checksum-local",
        "2:5",
        "--checksum needs exactly one source, and that a URL or a git repository",
    ),
    ("FROM a\nCMD", "missing-argument", "2:1", "CMD needs a command"),
    ('FROM a\nCMD ["a", null]', "exec-not-strings", "2:5", "CMD takes a JSON array of strings only"),
    ("FROM a\nENTRYPOINT", "missing-argument", "2:1", "ENTRYPOINT needs a command"),
    ("FROM a\nSHELL /bin/bash", "not-exec-form", "2:1", "SHELL takes a JSON array"),
    ("FROM a\nSHELL []", "missing-argument", "2:1", "SHELL needs a program"),
    ("FROM a\nUSER", "missing-argument", "2:1", "USER needs an argument"),
    ("FROM a\nWORKDIR", "missing-argument", "2:1", "WORKDIR needs an argument"),
    ("FROM a\nWORKDIR ${A=b}", "bad-substitution", "2:9", "${A=b} means nothing: there is no operator ="),
    ("FROM a\nWORKDIR ${}", "bad-substitution", "2:9", "${} names no variable"),
    ("FROM a\nWORKDIR 'x", "unclosed-quote", "2:9", "the quote ' is never closed"),
    ("FROM a\nSTOPSIGNAL SIGFOO", "bad-signal", "2:12", "SIGFOO is not a signal"),
    ("FROM a\nEXPOSE", "missing-argument", "2:1", "EXPOSE needs an argument"),
    ("FROM a\nEXPOSE http", "bad-port", "2:8", "EXPOSE http: http is not a port"),
    ("FROM a\nEXPOSE 80/tpc", "bad-port", "2:8", "EXPOSE 80/tpc: tpc is not a protocol"),
    ("FROM a\nEXPOSE 70000", "bad-port", "2:8", "EXPOSE 70000: ports end at 65535"),
    ("FROM a\nEXPOSE 90-80", "bad-port", "2:8", "EXPOSE 90-80: the range 90-80 runs backwards"),
    ("FROM a\nVOLUME", "missing-argument", "2:1", "VOLUME needs an argument"),
    ('FROM a\nVOLUME [""]', "empty-volume", "2:9", "a VOLUME can't be empty"),
    ("FROM a\nHEALTHCHECK", "missing-argument", "2:1", "HEALTHCHECK needs CMD or NONE"),
    ("FROM a\nHEALTHCHECK CDM x", "bad-healthcheck", "2:13", "HEALTHCHECK knows CMD and NONE, not CDM"),
    ("FROM a\nHEALTHCHECK CMD", "missing-argument", "2:1", "HEALTHCHECK CMD needs a command"),
    ("FROM a\nHEALTHCHECK NONE x", "extra-argument", "2:18", "HEALTHCHECK NONE takes nothing more"),
    (
        "FROM a\nHEALTHCHECK --interval=5 CMD x",
        "bad-duration",
        "2:13",
        "--interval is a time such as 30s or 1m30s, not 5",
    ),
    ("FROM a\nHEALTHCHECK --retries=-1 CMD x", "bad-flag-value", "2:13", "--retries is a number, 0 or more, not -1"),
    ("FROM a\nHEALTHCHECK --timeout=1us CMD x", "bad-duration", "2:13", "--timeout can't be less than 1ms"),
    ("FROM a\nONBUILD", "missing-argument", "2:1", "ONBUILD needs an instruction"),
    ("FROM a\nONBUILD FROM b", "onbuild-forbidden", "2:9", "FROM can't stand in an ONBUILD"),
    ("FROM a\nONBUILD ONBUILD RUN x", "onbuild-forbidden", "2:9", "ONBUILD can't stand in an ONBUILD"),
    ("FROM a\nONBUILD RNU x", "unknown-instruction", "2:9", "unknown instruction RNU"),
    ("FROM a\nONBUILD COPY a", "missing-destination", "2:14", "COPY needs a destination after a"),
    ("FROM a\nMACHINE", "missing-argument", "2:1", "MACHINE needs an argument"),
    ("FROM a\nMACHINE cpus=many", "bad-machine", "2:9", "cpus is a whole number from 1 to 255, not many"),
    ("FROM a\nMACHINE cpus=2 cpus=3", "machine-twice", "2:16", "cpus is given twice"),
    ("FROM a\nMACHINE ram=2G", "bad-machine", "2:9", "MACHINE does not know ram"),
    ("FROM a\nMACHINE memory=tiny", "bad-machine", "2:9", "memory is a size such as 512M or 2G, not tiny"),
    ("FROM a\nMACHINE memory=1M", "bad-machine", "2:9", "memory is at least 64M, not 1M"),
    ("FROM a\nMACHINE cpus=1\nMACHINE cpus=2", "machine-twice", "3:1", "a stage has one MACHINE"),
    ("FROM a\nSNAPSHOT now", "extra-argument", "2:10", "SNAPSHOT takes flags only"),
    ("FROM a\nSNAPSHOT --ready=http", "bad-snapshot", "2:10", "--ready=http says nothing to wait for"),
    ("FROM a\nSNAPSHOT --timeout=soon", "bad-snapshot", "2:10", "--timeout is a time such as 30s, not soon"),
    ("# escape=x\nFROM a", "bad-escape", "1:10", "the escape character can't be 'x'"),
    ("# syntax=a\n# syntax=b\nFROM a", "directive-twice", "2:10", "the directive syntax is given twice"),
    ("FROM a AS x\nCOPY --from=x a b", "stage-cycle", "2:6", "stages need one another: x -> x"),
    (
        "FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nCOPY --from=x a b",
        "stage-cycle",
        "2:6",
        "stages need one another: x -> y -> x",
    ),
    (
        "FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nRUN x",
        "stage-order",
        "2:6",
        "the stage y comes later than the stage that copies from it",
    ),
    ("FROM a\nWORKDIR ${A/x", "bad-substitution", "2:9", "${A/x lacks its /"),
    ("FROM a\nWORKDIR ${A#\\x}", "bad-pattern", "2:9", "the pattern \\x has an invalid escape \\x"),
    ("FROM a\nENV A=${B:-", "bad-substitution", "2:5", "${B:- lacks its }"),
    ("FROM a\nLABEL a=${B^}", "bad-substitution", "2:7", "${B^} means nothing: there is no operator ^"),
    ("FROM a\nMAINTAINER", "missing-argument", "2:1", "MAINTAINER needs an argument"),
]


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(MachinefileError) as caught:
        resolve(parse(Source("M", text)), BuildOptions(), lambda _: BaseImage("sha256:1", ImageConfig()))
    return caught.value.problems


@pytest.mark.parametrize(("text", "code", "place", "message"), CATALOGUE, ids=[row[0] for row in CATALOGUE])
def test_a_mistake_is_named_and_placed(text: str, code: str, place: str, message: str) -> None:
    first = problems_of(text)[0]
    where = f"{first.span.line}:{first.span.column}" if first.span else ""
    assert (first.code, where, first.message) == (code, place, message)


def test_the_catalogue_is_large() -> None:
    assert len(CATALOGUE) >= 60


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("FORM a", "did you mean FROM?"),
        ("FROM a\nCOPY --form=a b c", "did you mean --from?"),
        ("FROM a\nRUN --mount=type=cach,target=/x y", "did you mean cache?"),
        ("FROM a\nHEALTHCHECK CDM x", "did you mean CMD?"),
    ],
)
def test_a_typo_gets_the_nearest_name(text: str, hint: str) -> None:
    assert problems_of(text)[0].hint == hint


def test_all_independent_mistakes_of_the_syntax_come_at_once() -> None:
    found = problems_of("FROM a\nRNU x\nCOPY a\nENV A\nEXPOSE")
    assert [problem.span.line for problem in found if problem.span] == [2, 3, 4, 5]


def test_all_independent_mistakes_of_the_meaning_come_at_once() -> None:
    found = problems_of("FROM a\nEXPOSE x\nSTOPSIGNAL y\nWORKDIR ${}\nRUN true")
    assert [problem.code for problem in found] == ["bad-port", "bad-signal", "bad-substitution"]


def test_a_mistake_in_a_continuation_line_is_placed_there() -> None:
    first = problems_of("FROM a\nENV A=1 \\\n  # why\n\n  B")[0]
    assert first.span is not None
    assert (first.span.line, first.span.column) == (5, 3)
