"""What Lark makes of the grammars, as grammar/tables.json has it: the same text, whatever order its sets were in."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from typing import Any

import lark
from lark.grammar import NonTerminal
from lark.lexer import PatternStr, UnlessCallback
from lark.parsers.lalr_analysis import Shift

from machinefile.syntax import STARTS, grammar, grammar_text


def tables_text() -> str:
    """The whole file: a line for each state and rule, so that a change can be read."""
    return (
        json.dumps({name: _tables(name) for name in STARTS}, indent=None, separators=(",", ":")).replace("],[", "],\n[")
        + "\n"
    )


def _tables(name: str) -> dict[str, object]:
    made: Any = grammar(name)
    table = made.parser.parser._parse_table
    lexers = made.parser.lexer.lexers
    order = _order(table)
    numbers = {state: number for number, state in enumerate(order)}
    rules: dict[Any, int] = {}
    scanners: list[object] = []
    states = []
    for state in order:
        actions = {}
        for symbol, (action, target) in sorted(table.states[state].items()):
            actions[symbol] = numbers[target] if action is Shift else -1 - rules.setdefault(target, len(rules))
        scanner = _scanner(lexers[state])
        if scanner not in scanners:
            scanners.append(scanner)
        states.append([actions, scanners.index(scanner)])
    return {
        "grammar": hashlib.sha256(grammar_text(name).encode()).hexdigest(),
        "lark": lark.__version__,
        "ignored": sorted(made.ignore_tokens),
        "starts": {rule: [numbers[table.start_states[rule]], numbers[table.end_states[rule]]] for rule in STARTS[name]},
        "terminals": {one.name: one.pattern.to_regexp() for one in sorted(made.terminals, key=lambda one: one.name)},
        "scanners": scanners,
        "rules": [_rule(rule) for rule in rules],
        "states": states,
    }


def _order(table: Any) -> list[int]:
    """The states in an order that says nothing of how they were numbered."""
    todo = deque(table.start_states[rule] for rule in sorted(table.start_states))
    found: dict[int, None] = {}
    while todo:
        state = todo.popleft()
        if state not in found:
            found[state] = None
            todo += (target for _, (action, target) in sorted(table.states[state].items()) if action is Shift)
    return list(found)


def _scanner(lexer: Any) -> list[object]:
    scanner = lexer.scanner
    others: dict[str, dict[str, str]] = {}
    for kind, callback in lexer.callback.items():
        if not isinstance(callback, UnlessCallback):
            raise TypeError(f"{kind} has a callback of its own")
        if not all(isinstance(one.pattern, PatternStr) for one in callback.scanner.terminals):
            raise TypeError(f"{kind} gives way to more than texts")
        others[kind] = {one.pattern.value: one.name for one in callback.scanner.terminals}
    return [[one.name for one in scanner.terminals], others]


def _rule(rule: Any) -> list[object]:
    """As lark.parse_tree_builder carries it out, of what the project's grammars use."""
    options = rule.options
    kept = [
        [place, isinstance(symbol, NonTerminal) and symbol.name.startswith("_")]
        for place, symbol in enumerate(rule.expansion)
        if options.keep_all_tokens or not (symbol.is_term and symbol.filter_out)
    ]
    name = rule.alias or options.template_source or rule.origin.name
    return [rule.origin.name, str(name), len(rule.expansion), bool(options.expand1 and not rule.alias), kept]
