"""Which of the records that are known is most like that of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cache.keys import Value
from cache.records import LARGE
from engine.explain.sources import RecordSource
from machinefile.values import dataclass

MOST_RECORDS = 2000
"""Of one operation, that are looked at."""
MOST_BYTES = 50 << 20
"""Of records that are kept compressed, about."""
_LARGE_BYTES = 8 * LARGE
_WORDS = 1000
_COMMON = frozenset({"parent", "inputs", "platform", "environment", "user", "working_dir", "network", "origin"})
_ALIKE = 0.5
"""What the words of two steps must have in common to be called alike: the share of those that either has."""


@dataclass(frozen=True, slots=True)
class _Known:
    key: str
    words: frozenset[str]
    source: RecordSource


class Likeness:
    """Finds records that are alike; reads those of an operation once."""

    def __init__(self, sources: Sequence[RecordSource], most: int = MOST_RECORDS) -> None:
        self._sources = sources
        self._most = most
        self._known: dict[str, tuple[_Known, ...]] = {}

    def find(self, operation: str, fields: Mapping[str, Value]) -> tuple[str, RecordSource] | None:
        """The key of the most similar record, of equals the newest; None when nothing is alike."""
        if operation not in self._known:
            self._known[operation] = tuple(self._read(operation))
        words = sketch(fields)
        best: tuple[float, _Known] | None = None
        for known in self._known[operation]:
            score = len(words & known.words) / (len(words | known.words) or 1)
            if score >= _ALIKE and (best is None or score > best[0]):
                best = (score, known)
        return (best[1].key, best[1].source) if best is not None else None

    def _read(self, operation: str) -> Iterator[_Known]:
        left, weight = self._most, 0
        for source in self._sources:
            for key, record in source.like(operation):
                if left <= 0 or weight >= MOST_BYTES:
                    return
                left -= 1
                weight += _LARGE_BYTES if record.large else 0
                yield _Known(key, sketch(record.fields), source)


def sketch(fields: Mapping[str, Value]) -> frozenset[str]:
    """What a record says, as words; what most steps have in common left out, and so are the contents of its files."""
    found: set[str] = set()
    for name, value in fields.items():
        if name in _COMMON:
            continue
        match name, value:
            case "argv", (*_, str(option), str(script)) if option.endswith("c") and option.startswith("-"):
                value = (script,)
        for text in _texts(value):
            found.update(f"{name} {word}" for word in text[: 64 * _WORDS].split())
            if len(found) > _WORDS:
                return frozenset(found)
    return frozenset(found)


def _texts(value: Value) -> Iterator[str]:
    match value:
        case None | bool():
            pass
        case str():
            yield value
        case int():
            yield str(value)
        case (str(path), str(), int(), _):  # a file of a list: its path stands for it
            yield path
        case tuple():
            for one in value:
                yield from _texts(one)
