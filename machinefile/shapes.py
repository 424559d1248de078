"""What trees the grammars make: one that comes from a file may claim to be anything."""

from __future__ import annotations

import json

from machinefile.trees import Node, Part

_FORMS = {
    "choice": ("CHOICE", None, "CLOSE"),
    "trim": ("TRIM", None, "CLOSE"),
    "replace": ("REPLACE", None, "SLASH", None, "CLOSE"),
}
"""What a substitution is made of: tokens, and words (None)."""
_SHORTEST = len("${a-")
_LEAST = {"settings": 1}
"""Tokens beside flags that an instruction's rule asks for."""


def is_made_by(grammar: str, rule: str, tree: Node) -> bool:
    """Whether a tree is one that who asks for that rule can go through; whether it is the one of its text is not
    looked at."""
    if tree.data != rule:
        return False
    if grammar == "expansion":
        return _is_word(tree)
    tokens = [child for child in tree.children if isinstance(child, Part)]
    rest = [token for token in tokens if token.type not in ("FLAG", "SEPARATOR")]
    if len(tokens) < len(tree.children) or len(rest) < _LEAST.get(rule, 0):
        return False
    return all(_is_string(token) for token in tokens if token.type == "STRING")


def _is_string(token: Part) -> bool:
    try:
        return isinstance(json.loads(token), str)
    except (ValueError, RecursionError):
        return False


def _is_word(tree: Node) -> bool:
    return all(isinstance(child, str) or _is_part(child) for child in tree.children)


def _is_part(tree: Node) -> bool:
    form = _FORMS.get(tree.data)
    if form is None:
        return tree.data == "quoted" and _is_word(tree)
    if len(tree.children) != len(form) or not isinstance(tree.children[0], Part):
        return False
    if len(tree.children[0]) < _SHORTEST:
        return False
    for child, kind in zip(tree.children, form, strict=True):
        if isinstance(child, Part):
            if child.type != kind:
                return False
        elif kind is not None or not _is_word(child):
            return False
    return True
