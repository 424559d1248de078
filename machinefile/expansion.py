"""Substitution of variables in words, by grammar/expansion.lark: Docker's rules, which are nearly a shell's.

As in BuildKit the word of `${name:-word}` is expanded whether it is used or not. Depth costs no stack: a word may
nest as deep as it likes.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import field
from functools import lru_cache
from itertools import zip_longest
from typing import Any, cast

from machinefile.lines import SPACE
from machinefile.patterns import substitute, trim_prefix, trim_suffix
from machinefile.syntax import parsed
from machinefile.tables import NotMatchedError
from machinefile.trees import Node, Part
from machinefile.values import dataclass

_SWAP = str.maketrans("\\`", "`\\")
_SPECIAL = frozenset("$'\"\\")


class ExpansionError(Exception):
    """A word can't be expanded."""

    def __init__(self, message: str, code: str, hint: str = "", position: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.position = position
        """Offset in the word of what is wrong."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """A word with its variables replaced."""

    text: str
    words: tuple[str, ...] = ()
    """The same cut at blanks that weren't quoted."""
    unset: tuple[str, ...] = ()
    """Names that are not set and have no `${name-default}`, in order, without repeats."""


@dataclass(slots=True)
class _Segment:
    text: str
    quoted: bool
    """Blanks in it cut no words."""


@dataclass(slots=True)
class _Scope:
    environment: Mapping[str, str]
    unset: dict[str, None] = field(default_factory=dict)

    def value(self, name: str, *, reported: bool = True) -> str | None:
        found = self.environment.get(name)
        if found is None and reported:
            self.unset[name] = None
        return found


_Evaluation = Generator[Any, Any, Any]


def expand(word: str, environment: Mapping[str, str], escape: str = "\\") -> Expanded:
    """Expand an argument: variables replaced, quotes and escapes resolved. Raises ExpansionError."""
    if _SPECIAL.isdisjoint(word) and escape not in word:
        return Expanded(word, tuple(word.split()))
    swapped = escape != "\\"
    if swapped:
        word = word.translate(_SWAP)
        environment = _Swapped(environment)
    scope = _Scope(environment)
    segments = _run(_parts(_parse(word, "word"), scope, raw=False))
    text, words = "".join(segment.text for segment in segments), _split(segments)
    if swapped:
        text, words = text.translate(_SWAP), tuple(part.translate(_SWAP) for part in words)
    return Expanded(text, words, tuple(scope.unset))


def expand_document(content: str, environment: Mapping[str, str]) -> Expanded:
    """Expand a heredoc's content: quotes mean nothing, the backslash always escapes. Raises ExpansionError."""
    if "$" not in content and "\\" not in content:
        return Expanded(content)
    scope = _Scope(environment)
    segments = _run(_parts(_parse(content, "document"), scope, raw=False))
    return Expanded("".join(segment.text for segment in segments), (), tuple(scope.unset))


class _Swapped(Mapping[str, str]):
    """An environment seen by a word whose backslashes and backticks are exchanged."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def __getitem__(self, name: str) -> str:
        return self._environment[name].translate(_SWAP)

    def __iter__(self) -> Iterator[str]:
        return iter(self._environment)

    def __len__(self) -> int:
        return len(self._environment)


@lru_cache(maxsize=512)
def _parse(word: str, start: str) -> Node:
    try:
        return parsed("expansion", start, word)
    except NotMatchedError as error:
        raise _explain(word, error.position, start) from None


def _check_dollar(token: Part, following: object) -> None:
    """Refuse a `${` that no form of substitution matched; a dollar sign before anything else is plain."""
    text = str(following) if isinstance(following, str) else ""
    if not text.startswith("{"):
        return
    reference = _shown("$" + text.split("}")[0] + "}")
    position = token.start_pos or 0
    hint = "for example ${NAME}, ${NAME:-default} or ${NAME%suffix}; write \\$ for the character itself"
    if "}" not in text:
        raise ExpansionError(f"{_shown('$' + text)} lacks its }}", "bad-substitution", hint, position)
    operator = re.match(r"\{(?:[^\W\d]\w*|[0-9]+)(.+)\}", reference[1:])
    reason = (
        f"means nothing: there is no operator {operator[1][: 2 if operator[1][0] == ':' else 1]}"
        if operator
        else "names no variable"
    )
    raise ExpansionError(f"{reference} {reason}", "bad-substitution", hint, position)


def _explain(word: str, position: int, start: str) -> ExpansionError:
    """What a word that the grammar refuses lacks."""
    if position < len(word) and word[position] == "'":
        return ExpansionError("the quote ' is never closed", "unclosed-quote", "add a second '", position)
    quoted = start == "word" and _last_open(word) == '"'
    if quoted:
        begin = word.rfind('"')
        return ExpansionError('the quote " is never closed', "unclosed-quote", 'add a second "', begin)
    begin = max(word.rfind("${"), 0)
    missing = "/" if re.match(r"\$\{\w+//?[^/]*\Z", word[begin:]) else "}"
    message = f"{_shown(word[begin:])} lacks its {missing}"
    return ExpansionError(message, "bad-substitution", "for example ${NAME:-default} or ${NAME/from/to}", begin)


def _last_open(word: str) -> str:
    """The innermost bracket or double quote that is still open at the end."""
    open_now: list[str] = []
    position = 0
    while position < len(word):
        character = word[position]
        if character == "\\":
            position += 1
        elif character == '"':
            if open_now and open_now[-1] == '"':
                open_now.pop()
            else:
                open_now.append('"')
        elif word.startswith("${", position):
            open_now.append("{")
        elif character == "}" and open_now and open_now[-1] == "{":
            open_now.pop()
        position += 1
    return open_now[-1] if open_now else ""


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."


def _run(evaluation: _Evaluation) -> Any:
    """Drive an evaluation whose parts are evaluations: recursion without the stack."""
    stack, value = [evaluation], None
    while stack:
        try:
            deeper = stack[-1].send(value)
        except StopIteration as finished:
            stack.pop()
            value = finished.value
        else:
            stack.append(deeper)
            value = None
    return value


def _parts(tree: Node, scope: _Scope, *, raw: bool) -> _Evaluation:
    """The segments of a word. `raw`: escapes stay as they are, for a pattern."""
    segments = []
    for child, following in zip_longest(tree.children, tree.children[1:]):
        if isinstance(child, str):
            token = cast(Part, child)
            if token.type == "DOLLAR":
                _check_dollar(token, following)
            segments.append(_token(token, scope, raw))
        elif child.data == "quoted":
            inside = yield _parts(child, scope, raw=raw)
            segments.append(_Segment("".join(segment.text for segment in inside), True))
        else:
            value = yield _SUBSTITUTIONS[child.data](child, scope)
            segments.append(_Segment(value, False))
    return segments


def _token(token: Part, scope: _Scope, raw: bool) -> _Segment:
    match token.type:
        case "ESCAPED" | "QUOTED_ESCAPED":
            return _Segment(str(token) if raw else token[1:], True)
        case "SINGLE":
            return _Segment(token[1:-1], True)
        case "QUOTE" | "LONE":
            return _Segment("", token.type == "QUOTE")
        case "NAMED":
            return _Segment(scope.value(token[1:]) or "", False)
        case "BRACED":
            return _Segment(scope.value(token[2:-1]) or "", False)
        case "DOLLAR":
            return _Segment("$", False)
        case _:
            return _Segment(str(token), False)


def _inside(tree: Node, index: int, scope: _Scope, *, raw: bool) -> _Evaluation:
    segments = yield _parts(cast(Node, tree.children[index]), scope, raw=raw)
    return "".join(segment.text for segment in segments)


def _choice(tree: Node, scope: _Scope) -> _Evaluation:
    """`${name:-word}`, `:+`, `:?`, and the same without the colon, where empty counts as set."""
    opening = str(tree.children[0])
    operator, colon = opening[-1], opening[-2] == ":"
    name = opening[2 : -2 if colon else -1]
    word = yield _inside(tree, 1, scope, raw=False)
    value = scope.value(name, reported=False)
    missing = value is None or (colon and value == "")
    if operator == "-":
        return word if missing else value
    if operator == "+":
        return "" if missing else word
    if missing:
        message = word or ("is not allowed to be empty" if value == "" else "is not allowed to be unset")
        hint = f"set {name}, for example with --build-arg {name}=VALUE and ARG {name}"
        raise ExpansionError(f"{name}: {message}", "required-variable", hint, _position(tree))
    return value


def _trim(tree: Node, scope: _Scope) -> _Evaluation:
    """`${name#pattern}`, `##`, `%`, `%%`."""
    opening = str(tree.children[0])
    operator = opening[-1]
    longest = len(opening) > 4 and opening[-2] == operator
    name = opening[2 : -2 if longest else -1]
    pattern = yield _inside(tree, 1, scope, raw=True)
    trim = trim_prefix if operator == "#" else trim_suffix
    return _apply(lambda: trim(scope.value(name) or "", pattern, longest=longest), tree, pattern)


def _replace(tree: Node, scope: _Scope) -> _Evaluation:
    """`${name/pattern/text}` and `//`."""
    opening = str(tree.children[0])
    everywhere = opening.endswith("//")
    name = opening[2:].rstrip("/")
    pattern = yield _inside(tree, 1, scope, raw=True)
    text = yield _inside(tree, 3, scope, raw=True)
    value = scope.value(name) or ""
    return _apply(lambda: substitute(value, pattern, text, everywhere=everywhere), tree, pattern)


def _position(tree: Node) -> int:
    return cast(Part, tree.children[0]).start_pos or 0


def _apply(operation: Any, tree: Node, pattern: str) -> str:
    try:
        return cast(str, operation())
    except ValueError as error:
        message = f"the pattern {_shown(pattern)} has an {error}"
        position = _position(tree)
        hint = "a backslash may stand before * ? / } and itself"
        raise ExpansionError(message, "bad-pattern", hint, position) from None


_SUBSTITUTIONS = {"choice": _choice, "trim": _trim, "replace": _replace}


def _split(segments: list[_Segment]) -> tuple[str, ...]:
    """Words, cut at blanks outside quotes. A word that is only empty quotes vanishes, as in BuildKit."""
    words = [""]
    for segment in segments:
        if segment.quoted:
            words[-1] += segment.text
            continue
        first, *others = re.split(f"[{SPACE}]+", segment.text)
        words[-1] += first
        words.extend(others)
    return tuple(word for word in words if word)
