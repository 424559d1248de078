"""The grammars, loaded once and only when needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

_FOLDER = Path(__file__).resolve().parent.parent / "grammar"

STARTS = {
    "machinefile": ("text", "words", "settings", "names", "health", "array", "markers"),
    "expansion": ("word", "document"),
}


def grammar_text(name: str) -> str:
    """The text of a grammar of the project."""
    return (_FOLDER / f"{name}.lark").read_text(encoding="utf-8")


@cache
def grammar(name: str) -> Lark:
    """The parser for a grammar. Its terminals are checked against one another by a test, in Lark's strict mode."""
    from lark import Lark, lexer  # 40 ms to import, and a file without variables asks for one grammar only

    starts = list(STARTS[name])
    options: dict[str, Any] = {"parser": "lalr", "lexer": "contextual", "start": starts, "maybe_placeholders": False}
    # Where interegular is installed, Lark would compare all terminals with one another at every start: more than half
    # of the time that a cached build takes.
    compares, lexer.has_interegular = lexer.has_interegular, False
    try:
        return Lark(grammar_text(name), **options)
    finally:
        lexer.has_interegular = compares


def tokens(text: str, rule: str) -> Sequence[Token]:
    """The tokens of one instruction's text, by a rule of grammar/machinefile.lark. Raises lark's UnexpectedInput."""
    from lark import Token

    tree: Tree[Token] = grammar("machinefile").parse(text, start=rule)
    return [child for child in tree.children if isinstance(child, Token)]
