"""What a step came to: the layers of its file system."""

from __future__ import annotations

import json
import re
from collections import deque
from functools import lru_cache

from machinefile.values import dataclass

MOST_SECONDS = 1 << 40
"""No step takes as long, and no clock shows more."""
_MOST_BYTES = 1 << 63
_STEPS = b'"steps":['
"""How the last field of a result begins as the index writes it."""
_RECENT = 8
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def seconds_of(value: object) -> float | None:
    """A time, or how long something took, out of what json.loads gave; None for what is none: that knows infinity, and
    whole numbers of any size."""
    match value:
        case bool():
            return None
        case int() | float() if 0 <= value <= MOST_SECONDS:
            return float(value)
    return None


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer and the blob that holds it."""

    diff_id: str
    """The digest of its uncompressed tar."""
    digest: str
    """The digest of the blob; the diff id itself for a layer that is kept uncompressed."""
    size: int
    """Bytes of the blob."""
    media_type: str

    def to_json(self) -> list[object]:
        """As the index keeps it."""
        return [self.diff_id, self.digest, self.size, self.media_type]

    @classmethod
    def from_json(cls, value: object) -> Layer:
        """Raises ValueError for anything that is not a layer."""
        match value:
            case [str(diff_id), str(digest), int(size), str(media_type)]:
                return _layer(diff_id, digest, size, media_type)
        raise ValueError("not a layer")


@lru_cache(maxsize=1 << 14)  # each result of a chain has the layers of all those below it
def _layer(diff_id: str, digest: str, size: int, media_type: str) -> Layer:
    if not _DIGEST.fullmatch(diff_id) or not _DIGEST.fullmatch(digest) or not 0 <= size < _MOST_BYTES:
        raise ValueError("not a layer")
    return Layer(diff_id, digest, size, media_type)


@dataclass(frozen=True, slots=True)
class StepResult:
    """The file system after a step, as what was put on top of its base."""

    steps: tuple[Layer | None, ...] = ()
    """What each step since FROM added, this one last; None for one that changed nothing. So a result needs no
    other result, and says which lines of the image's history have a layer."""
    seconds: float = 0.0
    """How long the step took when it ran."""
    created: float = 0.0
    """When it ran, in seconds since 1970: for showing and for collection, never for keys."""
    hearsay: bool = False
    """Whether it, or something that it was made from, is what another cache said and nobody vouched for: no key of ours
    signs it."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers above the base, lowest first."""
        return tuple(layer for layer in self.steps if layer is not None)

    def to_json(self) -> dict[str, object]:
        """As the index keeps it."""
        said: dict[str, object] = {
            "steps": [layer and layer.to_json() for layer in self.steps],
            "seconds": self.seconds,
            "created": self.created,
        }
        return said | ({"hearsay": True} if self.hearsay else {})

    @classmethod
    def from_json(cls, value: object) -> StepResult:
        """Raises ValueError for anything that is not a result."""
        match value:
            case {"steps": list(steps), "seconds": took, "created": when, **rest}:
                seconds, created = seconds_of(took), seconds_of(when)
                if seconds is not None and created is not None:
                    return cls(_steps_of(steps), seconds, created, rest.get("hearsay") is True)
        raise ValueError("not a result")

    @classmethod
    def read(cls, content: bytes, known: KnownSteps) -> StepResult:
        """The same out of its JSON; what results that were just read have in common with it is not read again.

        Raises ValueError.
        """
        head, found, rest = content.partition(_STEPS)
        if found and rest.endswith(b"]}"):
            try:
                scalars = cls.from_json(json.loads(head + _STEPS + b"]}"))
                return cls(known.read(rest[:-2]), scalars.seconds, scalars.created, scalars.hearsay)
            except ValueError:
                pass  # written by somebody else, in another order
        return cls.from_json(json.loads(content))


class KnownSteps:
    """The lists of steps that were read last. The result of each step of a chain begins with that of the one below, so
    that a chain of a thousand has half a million layers, of which a thousand are read. Threads may share one."""

    def __init__(self) -> None:
        self._recent: deque[tuple[bytes, tuple[Layer | None, ...]]] = deque(maxlen=_RECENT)

    def read(self, text: bytes) -> tuple[Layer | None, ...]:
        """What is between the brackets of a list of steps. Raises ValueError."""
        begun: tuple[Layer | None, ...] = ()
        rest = text
        for known, steps in tuple(self._recent):
            after = text[len(known) : len(known) + 2]
            if len(steps) > len(begun) and text.startswith(known) and (not after or (after[:1] == b"," and after[1:])):
                begun, rest = steps, text[len(known) + 1 :]
        steps = (*begun, *_steps_of(json.loads(b"[" + rest + b"]")))
        self._recent.append((text, steps))
        return steps


def _steps_of(steps: list[object]) -> tuple[Layer | None, ...]:
    return tuple(None if step is None else Layer.from_json(step) for step in steps)
