"""What takes up the store's room: by kind of thing, by step, by image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from cache.collection.choose import reclaimable
from cache.collection.item import Holdings, Item, Sort
from cache.collection.policy import Filters
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a list."""

    id: str
    """A kind, the key of a step, the name of an image."""
    title: str
    size: int
    """Bytes on the disk of all that it keeps."""
    own: int
    """Bytes of what nothing else keeps: of a kind, those that could go."""
    count: int
    """How many things these are."""
    created: float = 0.0
    used: float = 0.0
    """When it, or the last of them, was used: seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Usage:
    """The room that a store takes, or those of its things that filters let pass."""

    items: tuple[Item, ...]
    """The largest first."""
    freeable: frozenset[str]
    """The names of those that could go."""
    holdings: Holdings

    @property
    def total(self) -> int:
        """Bytes on the disk."""
        return sum(item.size for item in self.items)

    @property
    def reclaimable(self) -> int:
        """Bytes of what no image with a name and no running build needs."""
        return sum(item.size for item in self.items if item.name in self.freeable)

    def kinds(self) -> tuple[Row, ...]:
        """By kind, the largest first."""
        groups = defaultdict[Sort, list[Item]](list)
        for item in self.items:
            groups[item.sort].append(item)
        rows = [
            Row(
                sort.value,
                "",
                sum(item.size for item in items),
                sum(item.size for item in items if item.name in self.freeable),
                len(items),
                min(item.created for item in items),
                max(item.used for item in items),
            )
            for sort, items in groups.items()
        ]
        return _sorted(rows)

    def steps(self) -> tuple[Row, ...]:
        """By step: what its own layer takes, in all its forms; `own` is 0 where another step has the same."""
        return self._holders(Sort.STEP)

    def images(self) -> tuple[Row, ...]:
        """By image with a name: all that it needs; `own` is what no other image needs, whatever steps may."""
        return self._holders(Sort.IMAGE)

    def _holders(self, sort: Sort) -> tuple[Row, ...]:
        tied = defaultdict[str, list[Item]](list)
        for item in self.holdings.items:
            if item.tied:
                tied[item.tied].append(item)
        holders = [item for item in self.items if item.sort is sort and not item.tied]
        shared = Counter(name for item in self.holdings.items if item.sort is sort for name in _counted(item))
        rows = []
        for item in holders:
            things = [thing for name in _counted(item) for thing in tied[name]]
            own = sum(thing.size for thing in things if shared[thing.tied] == 1)
            size = sum(thing.size for thing in things)
            rows.append(Row(item.id, item.title, size, own, len(things), item.created, item.used))
        return _sorted(rows)


def _counted(item: Item) -> frozenset[str]:
    return item.adds if item.sort is Sort.STEP else item.keeps


def _sorted(rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.size, row.id)))


def usage(holdings: Holdings, filters: Filters, now: float) -> Usage:
    """The room that things take. `now` is in seconds since 1970."""
    images = filters.images
    held = frozenset[str]().union(
        *(item.keeps for item in holdings.items if item.sort is Sort.IMAGE and item.title in images)
    )
    items = sorted(
        (item for item in holdings.items if filters.match(item, now, held)), key=lambda item: (-item.size, item.name)
    )
    freeable = frozenset(item.name for item in reclaimable(holdings, now))
    return Usage(tuple(items), freeable, holdings)
