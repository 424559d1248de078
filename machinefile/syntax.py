"""The grammars, loaded once and only when Lark itself is needed, and what they made of texts before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machinefile.shapes import is_made_by
from machinefile.tables import FOLDER, PATH, NotMatchedError, parse, tables
from machinefile.trees import Node, Part, tree_of, written

if TYPE_CHECKING:
    from lark import Lark

STARTS = {
    "machinefile": ("text", "words", "settings", "names", "health", "array", "markers"),
    "expansion": ("word", "document"),
}
_MOST = 1 << 14
"""Trees that are remembered: a file of 10,000 instructions has fewer."""


class Memory:
    """What rules made of texts, to be kept for the next time: the trees are the same whenever they are made."""

    def __init__(self) -> None:
        self._trees: dict[tuple[str, str, str], Node] = {}
        self._known: dict[tuple[str, str, str], Node] = {}

    @property
    def has_news(self) -> bool:
        """Whether there is a tree that did not come from `learn`."""
        return not self._trees.keys() <= self._known.keys()

    def learn(self, entries: object) -> None:
        """Take what `entries` gave before, as json.loads gives it. What is wrong with it is left out."""
        if not isinstance(entries, list) or len(entries) > _MOST:
            return
        for entry in entries:
            match entry:
                case [str(grammar), str(rule), str(text), tree] if rule in STARTS.get(grammar, ()):
                    found = tree_of(tree, text)
                    if found is not None and is_made_by(grammar, rule, found):
                        self._known[grammar, rule, text] = found

    def entries(self) -> Iterator[list[object]]:
        """The trees that were asked for, for json.dumps."""
        for (grammar, rule, text), tree in list(self._trees.items()):
            if (parts := written(tree, text)) is not None:
                yield [grammar, rule, text, parts]

    def get(self, grammar: str, rule: str, text: str) -> Node | None:
        """The tree of a text, if it is known."""
        key = grammar, rule, text
        tree = self._trees.get(key)
        if tree is None and (tree := self._known.get(key)) is not None:
            self._trees[key] = tree
        return tree

    def put(self, grammar: str, rule: str, text: str, tree: Node) -> None:
        """Remember a tree."""
        if len(self._trees) < _MOST:
            self._trees[grammar, rule, text] = tree


MEMORY = Memory()
"""Of this process."""


def grammar_paths() -> tuple[Path, ...]:
    """The files of the grammars, and of what was made of them."""
    return (*(FOLDER / f"{name}.lark" for name in STARTS), PATH)


def grammar_text(name: str) -> str:
    """The text of a grammar of the project."""
    return (FOLDER / f"{name}.lark").read_text(encoding="utf-8")


@cache
def grammar(name: str) -> Lark:
    """The parser for a grammar. Its terminals are checked against one another by a test, in Lark's strict mode."""
    from lark import Lark, lexer  # 40 ms to import

    starts = list(STARTS[name])
    options: dict[str, Any] = {"parser": "lalr", "lexer": "contextual", "start": starts, "maybe_placeholders": False}
    # Where interegular is installed, Lark would compare all terminals with one another at every start: more than half
    # of the time that a cached build takes.
    compares, lexer.has_interegular = lexer.has_interegular, False
    try:
        return Lark(grammar_text(name), **options)
    finally:
        lexer.has_interegular = compares


def parsed(name: str, rule: str, text: str) -> Node:
    """What a rule of a grammar makes of a text. Raises NotMatchedError."""
    known = MEMORY.get(name, rule, text)
    if known is not None:
        return known
    made = tables(name)
    tree = parsed_by_lark(name, rule, text) if made is None else parse(made, rule, text)
    MEMORY.put(name, rule, text, tree)
    return tree


def parsed_by_lark(name: str, rule: str, text: str) -> Node:
    """The same, by Lark itself: its tables are those of another grammar. Raises NotMatchedError."""
    from lark.exceptions import UnexpectedInput

    try:
        tree: Node = grammar(name).parse(text, start=rule)  # type: ignore[assignment]  # its trees have what ours have
    except UnexpectedInput as error:
        raise NotMatchedError(error.pos_in_stream or 0) from None
    return tree


def tokens(text: str, rule: str) -> Sequence[Part]:
    """The tokens of one instruction's text, by a rule of grammar/machinefile.lark. Raises NotMatchedError."""
    return [child for child in parsed("machinefile", rule, text).children if isinstance(child, str)]
