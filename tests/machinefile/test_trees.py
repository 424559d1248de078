"""Trees that are kept instead of being parsed again."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from random import Random

import pytest

from machinefile import syntax
from machinefile.errors import MachinefileError
from machinefile.expansion import ExpansionError, _parse, expand, expand_document
from machinefile.imageconfig import ImageConfig
from machinefile.options import BuildOptions
from machinefile.parser import parse
from machinefile.resolve import resolve
from machinefile.source import Source
from machinefile.steps import BaseImage
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


def _mutated(tree: list[object], chance: Random) -> object:
    """A tree with one thing in it that is another."""
    parts: list[object] = list(tree)
    at = chance.randrange(len(parts))
    one = parts[at]
    match chance.randrange(4):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, chance.choice(PIECES))
        case 2 if isinstance(one, list):
            parts[at] = _mutated(one, chance)
        case _:
            parts[at] = chance.choice(PIECES)
    return parts


KINDS = (
    *("TEXT", "CHOICE", "TRIM", "REPLACE", "CLOSE", "SLASH"),
    *("STRING", "FLAG", "NAME", "OLD_VALUE", "MARKER", "QUOTE"),
)
NODES = ("word", "quoted", "choice", "trim", "replace", "inner", "settings", "array")
PIECES: tuple[object, ...] = (
    *([kind, start, length] for kind in KINDS for start, length in ((0, 0), (0, 1), (1, 4))),
    *([node] for node in NODES),
    *([node, ["inner"], ["TEXT", 0, 1]] for node in NODES),
    *(0, "x", None, [], [1]),
)


@pytest.mark.parametrize("seed", range(8))
def test_trees_that_are_forged_lead_to_no_traceback(memory: Memory, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    work()
    kept = json.loads(json.dumps(list(memory.entries())))
    chance = Random(seed)
    for _ in range(60):
        forged = copy.deepcopy(kept)
        for entry in chance.sample(forged, 4):
            entry[3] = _mutated(entry[3], chance)
        fresh(monkeypatch).learn(forged)
        with suppress(MachinefileError, ExpansionError):
            source = Source("Machinefile", TEXT)
            resolve(parse(source), BuildOptions(), lambda _: BaseImage("sha256:" + "0" * 64, ImageConfig()))
        for word in WORDS:
            with suppress(MachinefileError, ExpansionError):
                expand(word, {"a": "1"})


@pytest.mark.parametrize(
    ("grammar", "rule", "text", "tree"),
    [
        ("expansion", "word", "${a-b}", ["word", ["choice", ["CHOICE", 0, 4]]]),
        ("expansion", "word", "${a-b}", ["word", ["choice", ["CHOICE", 0, 1], ["inner"], ["CLOSE", 5, 1]]]),
        ("expansion", "word", "${a-b}", ["word", ["choice", ["inner"], ["inner"], ["CLOSE", 5, 1]]]),
        ("expansion", "word", "${a-b}", ["word", ["choice", ["TEXT", 0, 4], ["inner"], ["CLOSE", 5, 1]]]),
        ("expansion", "word", "abc", ["word", ["unheard of"]]),
        ("expansion", "word", "abc", ["document", ["TEXT", 0, 3]]),
        ("machinefile", "words", "abc", ["words", ["words"]]),
        ("machinefile", "array", "[abc]", ["array", ["STRING", 1, 3]]),
        ("machinefile", "array", "[123]", ["array", ["STRING", 1, 3]]),
        ("machinefile", "settings", "a=b", ["settings"]),
    ],
)
def test_trees_that_no_grammar_makes_are_not_taken(
    memory: Memory, grammar: str, rule: str, text: str, tree: object
) -> None:
    memory.learn([[grammar, rule, text, tree]])
    assert memory.get(grammar, rule, text) is None


def test_what_nests_too_deeply_is_not_kept(memory: Memory) -> None:
    word = "${a:-" * 100 + "x" + "}" * 100
    assert expand(word, {}).text == "x"
    assert list(memory.entries()) == []


def no_grammar(name: str) -> object:
    raise AssertionError("the grammar was asked")
