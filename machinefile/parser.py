"""Text to instructions. The grammar says what an instruction looks like; this says what is wrong when it doesn't."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import field, replace

from machinefile.errors import MachinefileError, Problem
from machinefile.heredocs import read_heredocs
from machinefile.instructions import Flag, Form, Instruction, Machinefile, Pair, Word
from machinefile.lines import BLANK, LineReader, LogicalLine
from machinefile.mistakes import explain
from machinefile.source import Source
from machinefile.suggest import did_you_mean
from machinefile.syntax import tokens
from machinefile.tables import NotMatchedError
from machinefile.trees import Part
from machinefile.validation import check_instruction
from machinefile.values import dataclass
from machinefile.vocabulary import INSTRUCTIONS, Rule, Vocabulary

_NAME = re.compile(rf"[^{BLANK}]+")
_SWAP = str.maketrans("\\`", "`\\")
_BEFORE_ASSIGN = re.compile(r"""(?:[^="'\\]|\\.|"[^"\\]*(?:\\.[^"\\]*)*"|'[^']*')+""")


def parse(source: Source) -> Machinefile:
    """Read a Machinefile's syntax. Raises MachinefileError with every independent mistake."""
    reader = LineReader(source)
    parser = _Parser(reader, reader.problems)
    instructions = []
    while (line := reader.next_line()) is not None:
        instruction = parser.instruction(line)
        if instruction is not None:
            instructions.append(instruction)
    if parser.problems:
        raise MachinefileError(parser.problems)
    return Machinefile(source, tuple(reader.directives), tuple(instructions))


def parse_trigger(text: str, name: str) -> Instruction:
    """Read one instruction out of an image's ONBUILD. Raises MachinefileError when it isn't just one."""
    machinefile = parse(Source(name, text))
    if len(machinefile.instructions) != 1:
        raise MachinefileError.one(f"{name} has to be one instruction: {text!r}", code="bad-trigger")
    return machinefile.instructions[0]


@dataclass(slots=True)
class _Parser:
    reader: LineReader
    problems: list[Problem] = field(default_factory=list)

    def instruction(self, line: LogicalLine) -> Instruction | None:
        """An instruction with its heredocs; None, and a problem noted, when it is wrong."""
        before = len(self.problems)
        found = self._parse(line, 0)
        if found is None:
            return None
        found = read_heredocs(found, self.reader, self.problems)
        found = replace(found, end_line=self.reader.line_number)
        check_instruction(found, self.problems)
        return found if len(self.problems) == before else None

    def _parse(self, line: LogicalLine, start: int) -> Instruction | None:
        matched = _NAME.search(line.text, start)
        if matched is None:
            return None
        written, name = matched[0], matched[0].upper()
        vocabulary = INSTRUCTIONS.get(name)
        if vocabulary is None:
            span = line.span(matched.start(), matched.end())
            hint = did_you_mean(written, INSTRUCTIONS, "every line begins with an instruction, such as RUN or COPY")
            problem = Problem(f"unknown instruction {written[:60]}", "unknown-instruction", span, hint)
            self.problems.append(problem)
            return None
        base = Instruction(name, written, Form.WORDS, line, line.last_line, start=matched.start())
        return self._arguments(base, vocabulary, matched.end())

    def _arguments(self, base: Instruction, vocabulary: Vocabulary, offset: int) -> Instruction | None:
        text = base.line.text.rstrip(BLANK)[offset:]
        swap = self.reader.escape == "`" and vocabulary.rule in (Rule.SETTINGS, Rule.NAMES)
        try:
            found = tokens(text.translate(_SWAP) if swap else text, vocabulary.rule.value)
        except NotMatchedError as error:
            self.problems.append(explain(base, offset, text, error.position))
            return None
        flags = tuple(_flag(token, offset) for token in found if token.type == "FLAG")
        for flag in flags:
            if flag.end - offset < len(text) and text[flag.end - offset] not in BLANK:
                self.problems.append(explain(base, offset, text, flag.end - offset))
                return None
        rest = [token for token in found if token.type not in ("FLAG", "SEPARATOR")]
        base = replace(base, flags=flags)
        if vocabulary.rule in (Rule.SETTINGS, Rule.NAMES):
            return replace(base, form=Form.PAIRS, pairs=_pairs(rest, offset, swap))
        if base.name == "ONBUILD":
            return self._onbuild(base, rest, offset)
        return self._plain(base, vocabulary, rest, offset, text)

    def _plain(
        self, base: Instruction, vocabulary: Vocabulary, rest: Sequence[Part], offset: int, text: str
    ) -> Instruction | None:
        words = tuple(_word(token, offset) for token in rest)
        if vocabulary.exec_form:
            opening = 1 if vocabulary.rule is Rule.HEALTH else 0
            if len(words) > opening and words[opening].text.startswith("["):
                return self._bracketed(base, vocabulary, words, words[opening].start - offset, offset, text)
        shell = vocabulary.rule in (Rule.TEXT, Rule.HEALTH) and not vocabulary.single
        if vocabulary.rule is Rule.HEALTH and len(words) < 2:
            shell = False
        return replace(base, form=Form.SHELL if shell else Form.WORDS, words=words)

    def _bracketed(
        self, base: Instruction, vocabulary: Vocabulary, words: tuple[Word, ...], at: int, offset: int, text: str
    ) -> Instruction | None:
        """The exec form if it is one; as Docker does, anything else that begins with a bracket is plain text."""
        before = words[:1] if vocabulary.rule is Rule.HEALTH else ()
        try:
            strings = tokens(text[at:], "array")
        except NotMatchedError:
            if _is_json_array(text[at:]):
                span = base.line.span(offset + at, offset + len(text))
                message = f"{base.name} takes a JSON array of strings only"
                self.problems.append(Problem(message, "exec-not-strings", span, "put each item into double quotes"))
                return None
            form = Form.WORDS if vocabulary.rule is Rule.WORDS else Form.SHELL
            return replace(base, form=form, words=words)
        decoded = tuple(_word(token, offset + at, json.loads(token)) for token in strings if token.type == "STRING")
        return replace(base, form=Form.EXEC, words=before + decoded)

    def _onbuild(self, base: Instruction, rest: Sequence[Part], offset: int) -> Instruction | None:
        if not rest:
            hint = "for example ONBUILD RUN make"
            problem = Problem("ONBUILD needs an instruction", "missing-argument", base.name_span, hint)
            self.problems.append(problem)
            return None
        word = _word(rest[0], offset)
        matched = _NAME.match(word.text)
        name = matched[0].upper() if matched else ""
        if name in ("ONBUILD", "FROM", "MAINTAINER", "MACHINE", "SNAPSHOT"):
            span = base.line.span(word.start, word.start + len(name))
            self.problems.append(Problem(f"{name} can't stand in an ONBUILD", "onbuild-forbidden", span))
            return None
        nested = self._parse(base.line, word.start)
        return None if nested is None else replace(base, form=Form.NESTED, nested=nested)


def _word(token: Part, offset: int, text: str | None = None) -> Word:
    start = offset + (token.start_pos or 0)
    return Word(str(token) if text is None else text, start, start + len(token))


def _flag(token: Part, offset: int) -> Flag:
    name, separator, value = token[2:].partition("=")
    start = offset + (token.start_pos or 0)
    return Flag(name, value if separator else None, start, start + len(token))


def _pairs(found: Sequence[Part], offset: int, swapped: bool) -> tuple[Pair, ...]:
    """Pairs of an ENV, LABEL or ARG; `swapped` when the text was read with backslash and backtick exchanged."""
    if len(found) == 2 and found[1].type == "OLD_VALUE":
        name, value = _word(found[0], offset), _word(found[1], offset)
        if swapped:
            name, value = (replace(word, text=word.text.translate(_SWAP)) for word in (name, value))
        return (Pair(name.text, value.text, name.start, value.end, old=True),)
    pairs = []
    for token in found:
        word = _word(token, offset)
        written = word.text.translate(_SWAP) if swapped else word.text
        if token.type == "NAME":
            pairs.append(Pair(written, None, word.start, word.end))
        else:
            matched = _BEFORE_ASSIGN.match(token)
            cut = matched.end() if matched else 0
            pairs.append(Pair(written[:cut], written[cut + 1 :], word.start, word.end))
    return tuple(pairs)


def _is_json_array(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False
