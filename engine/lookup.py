"""Looking for the results of steps: what is there already, and what may be used of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from cache.index import Kind
from cache.results import StepResult
from cache.store import Store
from engine.carry.carried import CarriedResults
from engine.carry.sources import Found
from machinefile.steps import Step


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Which results a build may use."""

    use: bool = True
    """False for --no-cache."""

    def refuses(self, step: Step) -> str:
        """Why a step's results do not count, in words; empty when they do."""
        return "" if self.use else "--no-cache"


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

    def refused(self, step: Step) -> str:
        """Why no result from before this build is used for a step, in words; empty when one may be."""
        return self._policy.refuses(step)

    def look_elsewhere(self) -> bool:
        """From now on, ask other caches too; False if there are none, or they are asked already."""
        before, self._elsewhere = self._elsewhere, self._carried is not None
        return self._elsewhere and not before

    def by_definition(self, step: Step, key: str, depth: int = 0) -> StepResult | None:
        """The result under a definition key; `depth` is which step since FROM it is, if that is known."""
        if key in self._made:
            return self._store.result(Kind.RESULT, key)
        return None if self.refused(step) else next(self._candidates(Kind.RESULT, key, depth), None)

    def by_content(self, step: Step, key: str) -> StepResult | None:
        """The result under a content key."""
        return None if self.refused(step) else next(self._candidates(Kind.CONTENT, key, 0), None)

    def _candidates(self, kind: Kind, key: str, depth: int) -> Iterator[StepResult]:
        """What is here, then what is elsewhere: its layers may not be here yet."""
        if (here := self._store.result(kind, key)) is not None:
            yield here
        if self._carried is not None and self._elsewhere:
            yield from self._carried.by_definition(key, depth) if kind is Kind.RESULT else self._carried.by_content(key)

    def source_of(self, key: str, result: StepResult) -> Found | None:
        """Where a result under a definition key came from; None for our own."""
        return self._carried.source_of(key, result) if self._carried is not None else None

    def refused_elsewhere(self, key: str) -> str:
        """Why a result that another cache has under a definition key is not used, in words; empty for none."""
        return self._carried.caches.refusal(key) if self._carried is not None and self._elsewhere else ""

    def made_now(self, key: str) -> None:
        """This build made the result under that definition key: it counts from now on, whatever the policy says."""
        self._made.add(key)

    def made_meanwhile(self, key: str) -> StepResult | None:
        """A result that another process made since this build began: it counts whatever the policy says of older
        ones."""
        found = self._store.result(Kind.RESULT, key)
        return found if found is not None and found.created >= self._begun else None

    def was_made(self, key: str) -> bool:
        """Whether the step with that definition key was built before, be its layers there or not."""
        return self._store.index.get(Kind.RESULT, key) is not None
