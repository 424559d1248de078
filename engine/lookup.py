"""Looking for the results of steps: what is there already, and what may be used of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cache.index import Kind
from cache.results import StepResult
from cache.store import Store
from machinefile.durations import format_age
from machinefile.stages import Layout
from machinefile.steps import Run, Step
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.carry.carried import CarriedResults
    from engine.carry.sources import Found

_SKEW = 120.0
"""Seconds by which the clock of whoever made a result may be ahead of ours; never as much as its --ttl."""

_MOMENT = 2.0
"""Seconds that a layer which was seen in the store counts as still there."""


def ttl_of(step: Step) -> int | None:
    """A step's --ttl in nanoseconds, None without one."""
    return step.operation.ttl if isinstance(step.operation, Run) else None


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Which results a build may use."""

    use: bool = True
    """False for --no-cache."""
    filters: tuple[str, ...] = ()
    """--no-cache-filter: names or numbers of stages; only once they are `resolved` do they count."""
    stages: frozenset[str] = frozenset()
    """The stages whose steps run again, as steps name theirs."""

    def resolved(self, layout: Layout) -> tuple[CachePolicy, tuple[str, ...]]:
        """The policy for a file, and the filters that name no stage of it."""
        found = {word: layout.labels_of(word) for word in self.filters}
        policy = replace(self, stages=frozenset().union(*found.values()))
        return policy, tuple(word for word, stages in found.items() if not stages)

    def refuses(self, step: Step) -> str:
        """Why a step's results do not count, in words; empty when they do."""
        if not self.use:
            return "--no-cache"
        return f"--no-cache-filter {step.stage}" if step.stage in self.stages else ""


class Results:
    """The results that one build may use, wherever they are."""

    def __init__(self, store: Store, policy: CachePolicy | None = None, carried: CarriedResults | None = None) -> None:
        """`carried` has those of other caches, which count after our own once `look_elsewhere` was called."""
        self._store = store
        self._carried = carried
        self._elsewhere = False
        self._policy = policy or CachePolicy()
        self._begun = time.time()
        self._made: set[str] = set()
        self._seen: set[str] = set()
        """The layers that were in the store a moment ago."""
        self._seen_since = 0.0
        self._at_once: Mapping[str, bytes | None] | None = None
        """What the index has under the definition keys that are looked up just now."""
        self._recorded: frozenset[str] = frozenset()
        """Those of them whose records are there."""

    def refused(self, step: Step) -> str:
        """Why no result from before this build is used for a step, in words; empty when one may be."""
        return self._policy.refuses(step)

    def look_elsewhere(self) -> bool:
        """From now on, ask other caches too; False if there are none, or they are asked already."""
        before, self._elsewhere = self._elsewhere, self._carried is not None
        return self._elsewhere and not before

    @contextmanager
    def at_once(self, keys: Sequence[str]) -> Iterator[None]:
        """Look up those definition keys, and no others, within: the index is asked for all of them at once."""
        index = self._store.index
        self._at_once = found = index.contents(Kind.RESULT, keys)
        absent = [(Kind.RECORD, key) for key in keys if key not in found]
        self._recorded = frozenset(key for _, key in index.present(absent))
        try:
            yield
        finally:
            self._at_once, self._recorded = None, frozenset()

    def by_definition(self, step: Step, key: str, depth: int = 0) -> StepResult | None:
        """The result under a definition key; `depth` is which step since FROM it is, if that is known."""
        if key in self._made:
            return self._store.result(Kind.RESULT, key)
        return self._first(step, self._candidates(Kind.RESULT, key, depth))

    def by_content(self, step: Step, key: str) -> StepResult | None:
        """The result under a content key."""
        return self._first(step, self._candidates(Kind.CONTENT, key, 0))

    def _first(self, step: Step, candidates: Iterator[StepResult]) -> StepResult | None:
        if self.refused(step):
            return None
        return next((found for found in candidates if self._young(step, found) is not None), None)

    def _candidates(self, kind: Kind, key: str, depth: int) -> Iterator[StepResult]:
        """What is here, then what is elsewhere: its layers may not be here yet."""
        if time.monotonic() - self._seen_since > _MOMENT:
            self._seen, self._seen_since = set(), time.monotonic()
        if (here := self._own(kind, key)) is not None:
            yield here
        if self._carried is not None and self._elsewhere:
            yield from self._carried.by_definition(key, depth) if kind is Kind.RESULT else self._carried.by_content(key)

    def _own(self, kind: Kind, key: str) -> StepResult | None:
        if kind is not Kind.RESULT or self._at_once is None:
            return self._store.result(kind, key, self._seen)
        if key not in self._at_once:
            return None
        return self._store.result(kind, key, self._seen, self._at_once[key])

    def source_of(self, key: str, result: StepResult) -> Found | None:
        """Where a result under a definition key came from; None for our own."""
        return self._carried.source_of(key, result) if self._carried is not None else None

    def refused_elsewhere(self, key: str) -> str:
        """Why a result that another cache has under a definition key is not used, in words; empty for none."""
        return self._carried.caches.refusal(key) if self._carried is not None and self._elsewhere else ""

    def is_carried(self, key: str, result: StepResult) -> bool:
        """Whether other caches gave a result, by its definition key or its content."""
        return self._carried is not None and self._carried.gave(key, result)

    def made_now(self, key: str) -> None:
        """This build made the result under that definition key: it counts from now on, whatever the policy says."""
        self._made.add(key)

    def on_top_of(
        self, below: StepResult, step: Step, content_key: str, read: Iterable[StepResult | None] = ()
    ) -> StepResult | None:
        """The result under a content key, as one of a step that stands on `below` and reads what others came to."""
        found = self.by_content(step, content_key)
        if found is None or not found.steps:
            return None
        hearsay = found.hearsay or below.hearsay or any(one is not None and one.hearsay for one in read)
        return StepResult((*below.steps, found.steps[-1]), found.seconds, found.created, hearsay)

    def too_old(self, step: Step, key: str) -> str:
        """Why the result under a definition key is there and does not count, in words; empty where that is not so."""
        ttl = ttl_of(step)
        found = self._store.result(Kind.RESULT, key) if ttl is not None else None
        if found is None or ttl is None or self._young(step, found) is not None:
            return ""
        if found.created > time.time():
            return "its result was made where a clock was wrong, and its age is not known"
        return f"its result is older than {format_age(ttl)}"

    def _young(self, step: Step, result: StepResult | None) -> StepResult | None:
        """The result, unless the step's --ttl has passed since it was made, wherever that was. All of one build is
        judged by the time when it began."""
        ttl = ttl_of(step)
        if result is None or ttl is None:
            return result
        longest = ttl / 1e9
        # One that is to be made later is from a machine whose clock was wrong, and says nothing of its age. What other
        # builds have made since this one began is not from a time to come.
        latest = time.time() + min(_SKEW, longest / 2)
        return result if ttl and self._begun - longest <= result.created <= latest else None

    def made_meanwhile(self, key: str) -> StepResult | None:
        """A result that another process made since this build began: it counts whatever the policy says of older
        ones."""
        found = self._store.result(Kind.RESULT, key)
        return found if found is not None and self._begun <= found.created <= time.time() else None

    def was_made(self, key: str) -> bool:
        """Whether the step with that definition key was built before, be its layers there or not."""
        if self._at_once is not None:
            return key in self._at_once or key in self._recorded
        return bool(self._store.index.present([(Kind.RESULT, key), (Kind.RECORD, key)]))
