"""The tables that Lark made of the grammars, beside Lark."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from grammar_tables import tables_text
from hypothesis import given, settings
from hypothesis import strategies as st

from machinefile import tables
from machinefile.syntax import STARTS, parsed, parsed_by_lark
from machinefile.tables import NotMatchedError
from machinefile.trees import Node, Part

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = [(name, rule) for name, rules in STARTS.items() for rule in rules]
_PIECES = (
    "--",
    "--a=",
    "=",
    "a",
    "b1",
    "é",
    " ",
    "\t",
    "\n",
    "\\",
    '"',
    "'",
    "`",
    "$",
    "{",
    "}",
    "${a",
    ":-",
    "#",
    "%",
)
_MORE = ("/", "//", "[", "]", ",", "<<E", "<<-", "<", "0", "@", "${x:-", "${x/", "${x#", "CMD", "NONE", '"a"', "\\n")
TEXTS = st.lists(st.sampled_from(_PIECES + _MORE), max_size=14).map("".join)


def shape(tree: Node) -> list[object]:
    """A tree with all there is to say of it."""
    return [
        str(tree.data),
        *(
            [str(one.type), str(one), one.start_pos] if isinstance(one, str) else shape(one)  # type: ignore[union-attr]
            for one in tree.children
        ),
    ]


def outcome(parse: Callable[[], Node]) -> list[object] | int:
    """The tree, or where the text is refused."""
    try:
        return shape(parse())
    except NotMatchedError as error:
        return error.position


def by_lark(name: str, rule: str, text: str) -> list[object] | int:
    return outcome(lambda: parsed_by_lark(name, rule, text))


def by_tables(name: str, rule: str, text: str) -> list[object] | int:
    made = tables.tables(name)
    assert made is not None
    return outcome(lambda: tables.parse(made, rule, text))


def test_they_are_what_lark_makes_of_the_grammars_now() -> None:
    def without_version(text: str) -> list[str]:
        return [part for part in text.split(",") if not part.startswith('"lark":')]

    assert without_version(tables.PATH.read_text()) == without_version(tables_text()), "run scripts/grammar-tables"


@pytest.mark.parametrize(("name", "rule"), RULES)
@given(text=TEXTS)
def test_they_make_the_trees_that_lark_makes_and_stop_where_it_stops(name: str, rule: str, text: str) -> None:
    assert by_tables(name, rule, text) == by_lark(name, rule, text)


@pytest.mark.parametrize(("name", "rule"), RULES)
@settings(max_examples=25)
@given(text=st.text(max_size=12))
def test_so_they_do_with_any_characters(name: str, rule: str, text: str) -> None:
    assert by_tables(name, rule, text) == by_lark(name, rule, text)


def test_a_text_of_any_depth_needs_no_stack() -> None:
    text = "${a:-" * 3000 + "}" * 3000
    found = parsed("expansion", "word", text)
    depth = 0
    while found.children:
        depth += 1
        inner = [one for one in found.children if not isinstance(one, Part)]
        if not inner:
            break
        found = inner[-1]
    assert depth == 2 * 3000


def test_tables_of_another_grammar_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in STARTS:
        (tmp_path / f"{name}.lark").write_text("// changed\n")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    tables.tables.cache_clear()
    try:
        assert tables.tables("machinefile") is None
        assert [str(token) for token in parsed("machinefile", "text", " unseen before").children] == ["unseen before"]
    finally:
        tables.tables.cache_clear()


def test_a_file_is_parsed_without_lark() -> None:
    text = "FROM a\\nARG X=1\\nENV A=$X B='c'\\nRUN [\\\"a\\\"]\\nCOPY <<E /a\\nb\\nE\\nHEALTHCHECK CMD true\\n"
    code = f'''import sys
from machinefile.expansion import expand
from machinefile.parser import parse
from machinefile.source import Source
assert len(parse(Source("-", "{text}")).instructions) == 6
expand("${{x:-'$y'}}", {{}})
sys.exit("lark" in sys.modules)'''
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
