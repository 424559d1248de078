"""Heredocs: which words of a line ask for one, and reading the bodies below it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from machinefile.errors import Problem
from machinefile.instructions import Form, Heredoc, Instruction, Word
from machinefile.lines import LineReader
from machinefile.syntax import tokens
from machinefile.tables import NotMatchedError
from machinefile.vocabulary import INSTRUCTIONS

_MARKER = re.compile(r"[0-9]*<<(-?)[\t ]*(.+)", re.DOTALL)
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_UNQUOTE = re.compile(r"""\\(.)|"([^"\\]*)"|'([^']*)'|([^"'\\]+)""", re.DOTALL)


def parse_marker(word: str) -> tuple[str, bool, bool] | None:
    """Name, expand and chomp of a heredoc marker; None for a word that isn't one.

    Only whole words count, as in BuildKit: `cat <<EOF` has one, `$((1<<2))` and `cat<<EOF` have none.
    """
    matched = _MARKER.fullmatch(word)
    if matched is None or "<" in matched[2]:
        return None
    name = "".join("".join(parts) for parts in _UNQUOTE.findall(matched[2]))
    if not name:
        return None
    return name, not any(quote in matched[2] for quote in "\"'"), matched[1] == "-"


def find_markers(text: str) -> Sequence[Word]:
    """The heredoc markers in an instruction's text. A text whose quotes don't match has none, as in BuildKit."""
    if "<<" not in text:
        return ()
    try:
        found = tokens(text, "markers")
    except NotMatchedError:
        return ()
    markers, touched = [], 0
    for token in found:
        start = token.start_pos or 0
        end = start + len(token)
        whole = start >= touched and (end == len(text) or text[end] in "\t\v\f\r ")
        touched = end + 1
        if token.type == "MARKER" and whole and _counts(token):
            markers.append(Word(str(token), start, end))
    return markers


def _counts(marker: str) -> bool:
    """With a blank after `<<` only a plain name counts, so that `$((1 << 2))` stays arithmetic."""
    found = parse_marker(marker)
    return found is not None and (not re.search(r"<<-?[\t ]", marker) or bool(_PLAIN_NAME.fullmatch(found[0])))


def read_heredocs(instruction: Instruction, reader: LineReader, problems: list[Problem]) -> Instruction:
    """The instruction with the bodies of its heredocs, taken from the lines below it."""
    holder = instruction.nested or instruction
    if not INSTRUCTIONS[holder.name].heredocs or holder.form is Form.EXEC:
        return instruction
    heredocs = []
    for marker in find_markers(instruction.line.text):
        parsed = parse_marker(marker.text)
        if parsed is None:
            continue
        name, expand, chomp = parsed
        content = reader.heredoc(name, chomp)
        if content is None:
            span = instruction.line.span(marker.start, marker.end)
            message = f"the heredoc {name} has no end"
            hint = f"put a line with {name} alone below its content"
            problems.append(Problem(message, "unterminated-heredoc", span, hint))
            break
        heredocs.append(Heredoc(name, expand, chomp, content, marker.text))
    if not heredocs:
        return instruction
    if instruction.nested is None:
        return replace(instruction, heredocs=tuple(heredocs))
    return replace(instruction, nested=replace(instruction.nested, heredocs=tuple(heredocs)))
