"""What goes: a pure choice over what there is. A thing that stays keeps all that it names."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from cache.collection.item import Holdings, Item, Reference, Sort, Standing
from cache.collection.policy import Policy


def choose(holdings: Holdings, policy: Policy, now: float) -> tuple[Item, ...]:
    """The things that a policy takes, in an order in which they may go. `now` is in seconds since 1970.

    What nothing needs goes before what is only a cache, what was not used for longest before the rest. Never goes
    what an image with a name needs, and what was used or made since `holdings.guard`.
    """
    return _Choice(holdings, policy, now).made()


def reclaimable(holdings: Holdings, now: float) -> tuple[Item, ...]:
    """All that could go."""
    return choose(holdings, Policy(everything=True), now)


def left_over(references: Iterable[Reference], staying: Iterable[Item]) -> tuple[Reference, ...]:
    """The references that speak of something that does not stay."""
    there = set[str]()
    for item in staying:
        there |= {item.name, item.tied}
    return tuple(one for one in references if not one.names <= there)


class _Choice:
    def __init__(self, holdings: Holdings, policy: Policy, now: float) -> None:
        self._items = holdings.items
        self._policy = policy
        self._now = now
        self._since = min(holdings.guard, now - policy.keep_duration if policy.keep_duration else holdings.guard)
        self._kept_by = Counter(name for item in self._items for name in item.keeps)
        self._tied = defaultdict[str, list[Item]](list)
        for item in self._items:
            if item.tied:
                self._tied[item.tied].append(item)
        images = policy.filters.images
        self._held = frozenset[str]().union(
            *(item.keeps for item in self._items if item.sort is Sort.IMAGE and item.title in images)
        )
        self._going: dict[str, Item] = {}
        self._left = holdings.size

    def made(self) -> tuple[Item, ...]:
        policy = self._policy
        first = [item for item in self._items if self._is_spent(item) and self._may_go(item)]
        # Of what was used at one time the later steps go first: layers that an earlier one has too free no room.
        first.sort(key=lambda item: (item.used, -len(item.keeps)))
        then: list[Item] = []
        if policy.everything or policy.keep_storage is not None:
            then = [item for item in self._items if item.standing is Standing.CACHED and self._may_go(item)]
            then.sort(key=lambda item: (item.used, -len(item.keeps)))
        for item in (*first, *then):
            if policy.keep_storage is not None and self._left <= policy.keep_storage:
                break
            self._take(item)
        return tuple(self._going.values())

    def _is_spent(self, item: Item) -> bool:
        return item.standing is Standing.SPENT or bool(item.tied and not self._kept_by[item.tied])

    def _may_go(self, item: Item) -> bool:
        return self._is_free(item) and self._policy.filters.match(item, self._now, self._held)

    def _is_free(self, item: Item) -> bool:
        return max(item.used, item.created) < self._since

    def _take(self, item: Item) -> None:
        """Take a thing, and with it what nothing else keeps: that is what frees the room."""
        todo = [item]
        while todo:
            one = todo.pop()
            if one.name in self._going:
                continue
            self._going[one.name] = one
            self._left -= one.size
            for name in one.keeps:
                self._kept_by[name] -= 1
                if not self._kept_by[name]:
                    todo += (tied for tied in self._tied[name] if self._is_free(tied))
