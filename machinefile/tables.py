"""Parsing with the tables that Lark made of a grammar, without Lark: it takes longer to import than a file to parse.

`grammar/tables.json` is written by scripts/grammar-tables. It names the text that it was made of: with any other
grammar beside it, Lark parses. What is done here is what Lark's contextual lexer and its LALR parser do, and a test
holds the trees, and the places where a text is refused, against Lark's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import field
from functools import cache
from pathlib import Path

from machinefile.trees import Node, Part, Tree
from machinefile.values import dataclass

FOLDER = Path(__file__).resolve().parent.parent / "grammar"
PATH = FOLDER / "tables.json"

_END = "$END"


class NotMatchedError(Exception):
    """A text is not what a grammar's rule says."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position
        """Where the grammar stopped."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done once the parts of a rule are there."""

    origin: str
    """Where the automaton goes on."""
    name: str
    """Of the node that is made."""
    length: int
    """Parts."""
    single: bool
    """One child stands for the node."""
    kept: Sequence[tuple[int, bool]]
    """The parts that become children, by their places; whether their children do in their stead."""


@dataclass(frozen=True, slots=True)
class Tables:
    """A grammar's automaton, as Lark computes it: LALR(1), with a scanner of its own for each state."""

    grammar: str
    """The sha256 of the grammar's text, in hex."""
    terminals: dict[str, str]
    """Their regular expressions."""
    ignored: frozenset[str]
    starts: dict[str, tuple[int, int]]
    """Of each rule that a text may begin at: the first state, and the last."""
    states: Sequence[tuple[dict[str, int], int]]
    """What to do at a symbol: go to that state or, below zero, do the rule `-1 - number`; and which scanner reads."""
    scanners: Sequence[tuple[Sequence[str], dict[str, dict[str, str]]]]
    """The terminals, the first that matches counts; and texts of one that are another."""
    rules: Sequence[Rule]
    compiled: dict[int, re.Pattern[str]] = field(default_factory=dict)
    """The scanners that were used so far."""


@cache
def tables(name: str) -> Tables | None:
    """The tables of a grammar; None where they are of another text than it has now."""
    try:
        found = json.loads(PATH.read_bytes())[name]
    except (OSError, ValueError, KeyError):
        return None
    text = (FOLDER / f"{name}.lark").read_bytes()
    if found["grammar"] != hashlib.sha256(text).hexdigest():
        return None
    return Tables(
        found["grammar"],
        found["terminals"],
        frozenset(found["ignored"]),
        {rule: (first, last) for rule, (first, last) in found["starts"].items()},
        [(actions, scanner) for actions, scanner in found["states"]],
        [(terminals, others) for terminals, others in found["scanners"]],
        [Rule(*rule) for rule in found["rules"]],
    )


def parse(made: Tables, rule: str, text: str) -> Node:
    """What a rule of a grammar makes of a text. Raises NotMatchedError."""
    state, last = made.starts[rule]
    stack = [state]
    values: list[Node | Part] = []
    token = Part("", "", 0)
    while True:
        token = _next(made, state, text, token)
        while (action := made.states[state][0].get(token.type)) is not None and action < 0:
            state = _reduce(made, made.rules[-1 - action], stack, values)
            if token.type == _END and state == last:
                return values[0]  # type: ignore[return-value]  # no rule that a text begins at is a token
        if action is None:
            raise NotMatchedError(token.start_pos or 0)
        state = action
        stack.append(state)
        values.append(token)


def _next(made: Tables, state: int, text: str, before: Part) -> Part:
    """The token after another, read as the state of the parser has it. Raises NotMatchedError where none begins."""
    number = made.states[state][1]
    begun = before.start_pos or 0
    position = begun + len(before)
    match = _scanner(made, number).match
    while position < len(text):
        found = match(text, position)
        if found is None or found.lastgroup is None:
            raise NotMatchedError(position)
        if found.lastgroup not in made.ignored:
            others = made.scanners[number][1].get(found.lastgroup)
            return Part(others.get(found[0], found.lastgroup) if others else found.lastgroup, found[0], position)
        position = found.end()
    return Part(_END, "", begun)  # Lark has the end where the last token is


def _scanner(made: Tables, number: int) -> re.Pattern[str]:
    """What reads the terminals of a scanner."""
    if number not in made.compiled:
        one = made.scanners[number][0]
        made.compiled[number] = re.compile("|".join(f"(?P<{name}>{made.terminals[name]})" for name in one))
    return made.compiled[number]


def _reduce(made: Tables, rule: Rule, stack: list[int], values: list[Node | Part]) -> int:
    """Make a node of the last values; gives the state that follows."""
    begin = len(values) - rule.length
    children: list[Node | Part] = []
    for place, inlined in rule.kept:
        value = values[begin + place]
        if inlined and not isinstance(value, Part):
            if not children and isinstance(value.children, list):
                children = value.children  # whose node is gone; copies of a long list would take long
            else:
                children += value.children
        else:
            children.append(value)
    del values[begin:], stack[begin + 1 :]
    values.append(children[0] if rule.single and len(children) == 1 else Tree(rule.name, children))
    stack.append(made.states[stack[-1]][0][rule.origin])
    return stack[-1]
