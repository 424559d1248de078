"""The trees that grammars make of texts, in a form that can be kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_DEEPEST = 16
"""Levels of a tree that is kept; words may nest deeper, and are parsed anew."""


class Part(str):
    """A token: a part of a text. As of lark, as far as anything here asks."""

    __slots__ = ("start_pos", "type")
    type: str
    """Which terminal of the grammar it is."""
    start_pos: int | None
    """Where it begins in the text."""

    def __new__(cls, kind: str, text: str, start: int) -> Part:
        made = super().__new__(cls, text)
        made.type = kind
        made.start_pos = start
        return made


class Node(Protocol):
    """What a rule matched. As of lark, as far as anything here asks."""

    @property
    def data(self) -> str:
        """The rule."""
        ...

    @property
    def children(self) -> Sequence[Node | Part]:
        """What it is made of, in order."""
        ...


class Tree:
    """A node that was kept."""

    __slots__ = ("children", "data")

    def __init__(self, data: str, children: Sequence[Node | Part]) -> None:
        self.data = data
        self.children = children


def written(tree: Node, text: str, depth: int = 0) -> list[object] | None:
    """A text's tree for json.dumps: a node is its rule and what is in it, a token its kind, its place and its length.
    None for one that is too deep."""
    if depth > _DEEPEST:
        return None
    parts: list[object] = [str(tree.data)]
    for child in tree.children:
        if isinstance(child, str):
            start = child.start_pos or 0
            if child != text[start : start + len(child)]:
                return None
            parts.append([str(child.type), start, len(child)])
        else:
            inside = written(child, text, depth + 1)
            if inside is None:
                return None
            parts.append(inside)
    return parts


def tree_of(parts: object, text: str, depth: int = 0) -> Tree | None:
    """The tree that `written` wrote; None for anything else. Its tokens are parts of the text, whatever was written."""
    match parts:
        case [str(data), *rest] if depth <= _DEEPEST:
            children: list[Node | Part] = []
            for one in rest:
                match one:
                    case [str(kind), int(start), int(length)] if 0 <= start <= start + length <= len(text):
                        children.append(Part(kind, text[start : start + length], start))
                    case _ if (inside := tree_of(one, text, depth + 1)) is not None:
                        children.append(inside)
                    case _:
                        return None
            return Tree(data, children)
    return None
