"""Long results, kept in parts that they share: each result of a chain begins with that of the step below."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

from cache.index import Index, Kind
from cache.results import Layer, StepResult
from machinefile.values import dataclass

PART = 32
"""Steps in a part."""
_SHORT = 64
"""Steps of a result that is kept whole."""
_MOST_KNOWN = 1 << 10
_CHAINED = b'{"chain":'
"""How a result that is not kept whole begins, as the index writes it."""

_Steps = tuple[Layer | None, ...]


@dataclass(frozen=True, slots=True)
class _Link:
    """A part, and what is below it."""

    below: str
    steps: _Steps

    @classmethod
    def read(cls, name: str, content: bytes | None) -> _Link | None:
        """None for what is not the part of that name."""
        if content is None or hashlib.sha256(content).hexdigest() != name:
            return None
        match json.loads(content):
            case {"below": str(below), "steps": [_, *_] as steps}:
                return cls(below, StepResult.from_json({"steps": steps, "seconds": 0, "created": 0}).steps)
        return None


def layers_of_part(value: object) -> tuple[Layer, ...]:
    """The layers that a part speaks of; none where it is no part."""
    match value:
        case {"steps": [*steps]}:
            with suppress(ValueError):
                return StepResult.from_json({"steps": steps, "seconds": 0, "created": 0}).layers
    return ()


class Chains:
    """Results as the index has them: one of many steps as the rest that is its own, above parts which are named by
    what is in them and in those below.

        result     {"chain": [name of the uppermost part, the steps above it], "seconds", "created", ...}
        part       {"below": name of the next part, or nothing, "steps": PART steps, the lowest first}

    A part never changes, so a result that is made anew changes no other; one whose parts are gone or damaged is none.
    Threads may share one.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: dict[str, _Steps] = {}
        """Parts that are in the index, each with the steps of all those below."""

    def written(self, result: StepResult) -> dict[str, object]:
        """A result for json.dumps; its parts are in the index then. Raises StoreError."""
        said = result.to_json()
        if len(result.steps) <= _SHORT:
            return said
        listed: list[object] = [layer and layer.to_json() for layer in result.steps]
        whole = (len(listed) - 1) // PART * PART
        below = ""
        for start in range(0, whole, PART):
            below = self._put(below, listed[start : start + PART], result.steps[: start + PART])
        del said["steps"]
        return {"chain": [below, listed[whole:]], **said}

    def result(self, value: object) -> StepResult:
        """The result that an entry of the index tells. Raises ValueError for what is none, and StoreError."""
        match value:
            case {"chain": [str(name), list(above)], **said} if "steps" not in said:
                result = StepResult.from_json({**said, "steps": above})
                return StepResult((*self._steps(name), *result.steps), result.seconds, result.created, result.hearsay)
        return StepResult.from_json(value)

    def is_chained(self, content: bytes) -> bool:
        """Whether an entry's JSON is that of a result which is not kept whole."""
        return content.startswith(_CHAINED)

    def _put(self, below: str, part: list[object], steps: _Steps) -> str:
        value = {"below": below, "steps": part}
        name = hashlib.sha256(json.dumps(value, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
        if name not in self._known:
            if _Link.read(name, self._index.content(Kind.CHAIN, name)) is None:
                self._index.put(Kind.CHAIN, name, value)
            self._know(name, steps)
        return name

    def _steps(self, name: str) -> _Steps:
        """What a part and those below it hold. Raises ValueError where one is not there."""
        links: list[tuple[str, _Link]] = []
        while name and name not in self._known:
            link = _Link.read(name, self._index.content(Kind.CHAIN, name))
            if link is None:
                raise ValueError("a part of the result is missing")
            links.append((name, link))
            name = link.below
        steps = self._known[name] if name else ()
        for one, link in reversed(links):
            steps = (*steps, *link.steps)
            self._know(one, steps)
        return steps

    def _know(self, name: str, steps: _Steps) -> None:
        if len(self._known) < _MOST_KNOWN:
            self._known[name] = steps
