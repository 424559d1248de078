"""Looking for the results of steps: what is there already, and what may be used of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from cache.index import Kind
from cache.results import StepResult
from cache.store import Store
from machinefile.stages import Layout
from machinefile.steps import Step


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

    def __init__(self, store: Store, policy: CachePolicy | None = None) -> None:
        self._store = store
        self._policy = policy or CachePolicy()
        self._begun = time.time()

    def refused(self, step: Step) -> str:
        """Why no result from before this build is used for a step, in words; empty when one may be."""
        return self._policy.refuses(step)

    def by_definition(self, step: Step, key: str) -> StepResult | None:
        """The result under a definition key."""
        return None if self.refused(step) else self._store.result(Kind.RESULT, key)

    def by_content(self, step: Step, key: str) -> StepResult | None:
        """The result under a content key."""
        return None if self.refused(step) else self._store.result(Kind.CONTENT, key)

    def made_meanwhile(self, key: str) -> StepResult | None:
        """A result that another process made since this build began: it counts whatever the policy says of older
        ones."""
        found = self._store.result(Kind.RESULT, key)
        return found if found is not None and found.created >= self._begun else None

    def was_made(self, key: str) -> bool:
        """Whether the step with that definition key was built before, be its layers there or not."""
        return self._store.index.has(Kind.RESULT, key) or self._store.index.has(Kind.RECORD, key)
