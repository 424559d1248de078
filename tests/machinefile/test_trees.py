"""Trees that are kept instead of being parsed again."""

from __future__ import annotations

import json

import pytest

from machinefile import syntax
from machinefile.expansion import _parse, expand, expand_document
from machinefile.parser import parse
from machinefile.source import Source
from machinefile.syntax import Memory

TEXT = """\
# escape=`
FROM debian AS build
ARG a=1 b="x y" c
ENV D=${a:-"${b}"}/$c E='q' F=${a%1} G=${a/1/2}
ENV OLD some value
RUN --mount=type=cache,target=/c make && `
    make install
RUN <<EOF
echo $D
EOF
COPY ["a b", "/c"]
COPY --from=build <<-"END" /x
	text
END
HEALTHCHECK --interval=5s CMD ["true"]
ONBUILD RUN echo
"""
WORDS = ("$a", "${a:-${b:+x}}", '"$a \\" $$"', "${a##*/}", "${a//x/\\/}", "'$a'\\n", "pre${a}post")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
    return fresh(monkeypatch)


def fresh(monkeypatch: pytest.MonkeyPatch) -> Memory:
    made = Memory()
    monkeypatch.setattr(syntax, "MEMORY", made)
    monkeypatch.setattr("machinefile.expansion._parse", _parse.__wrapped__)
    return made


def work() -> object:
    values = {"a": "11/1", "b": "2"}
    words = [expand(word, values) for word in WORDS] + [expand_document("$a \\$b ${b:-1}\n", values)]
    return parse(Source("Machinefile", TEXT)).instructions, words


def test_what_was_kept_parses_as_it_did(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    first = work()
    kept = json.loads(json.dumps(list(memory.entries())))
    assert memory.has_news
    again = fresh(monkeypatch)
    again.learn(kept)
    monkeypatch.setattr(syntax, "grammar", no_grammar)
    assert work() == first
    assert not again.has_news
    assert list(again.entries()) == kept


@pytest.mark.parametrize(
    "entries",
    [
        None,
        [["machinefile", "words", "abc", ["words", ["WORD", 1, 5]]]],
        [["machinefile", "words", "abc", ["words", ["WORD", -1, 2]]]],
        [["machinefile", "words", "abc", ["words", ["WORD", 0, "3"]]]],
        [["machinefile", "no such rule", "abc", ["words", ["WORD", 0, 3]]]],
        [["no such grammar", "words", "abc", ["words", ["WORD", 0, 3]]]],
        [["machinefile", "words", "abc", "words"]],
        [["machinefile", "words", "abc"]],
    ],
)
def test_what_makes_no_sense_is_not_taken(memory: Memory, entries: object) -> None:
    memory.learn(entries)
    assert memory.get("machinefile", "words", "abc") is None


def test_what_nests_too_deeply_is_not_kept(memory: Memory) -> None:
    word = "${a:-" * 100 + "x" + "}" * 100
    assert expand(word, {}).text == "x"
    assert list(memory.entries()) == []


def no_grammar(name: str) -> object:
    raise AssertionError("the grammar was asked")
