"""Cleaning a store, while builds may use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from cache.collection.choose import choose, left_over
from cache.collection.item import Holdings, Item
from cache.collection.policy import Policy
from cache.gate import GATE_POLL
from cache.locks import remove_free_locks
from cache.store import Store
from engine.collection.removal import Removal
from engine.collection.survey import survey
from engine.vm.runfolder import sweep
from machinefile.errors import InterruptedBuildError, StoreError
from machinefile.values import dataclass

_T = TypeVar("_T")
_BATCH = 256
"""Things that are taken while the gate is held once."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What came of it."""

    removed: tuple[Item, ...]
    """Or what would have been."""
    left: int
    """Bytes on the disk that the store still has."""
    complete: bool = True
    """False where time was up before all that was to go had gone."""

    @property
    def freed(self) -> int:
        """Bytes on the disk."""
        return sum(item.size for item in self.removed)


def prune(
    store: Store,
    policy: Policy,
    *,
    dry_run: bool = False,
    cancelled: threading.Event | None = None,
    deadline: float | None = None,
    enough: float | None = None,
) -> Pruned:
    """Remove what a policy takes. What another process uses, or made since it began, stays.

    What goes is chosen without disturbing anybody, and then goes a little at a time: the gate of the store is held
    alone for as long as it takes to see that a few things are still unused, and to rename them away. After `enough`
    (of time.monotonic(), as `deadline`, which is for finding out what is there) no more is taken.

    Raises StoreError (`store-damaged`: nobody knows which images are kept); InterruptedBuildError as `survey`, or
    when `cancelled` is set; what went before is gone.
    """
    if not store.names.is_sound():
        raise StoreError(
            "the names of images cannot be read, so it is not known what they need",
            code="store-damaged",
            hint="run: mbuild cache check --repair",
        )
    holdings = survey(store, cancelled, deadline)
    chosen = choose(holdings, policy, time.time())
    if dry_run:
        return Pruned(chosen, holdings.size - sum(item.size for item in chosen))
    removal = Removal(store, holdings)
    removed: list[Item] = []
    complete = True
    for batch in _batches(chosen, cancelled):
        removed += removal.take(batch, cancelled)
        if enough is not None and time.monotonic() > enough and batch[-1] is not chosen[-1]:
            complete = False
            break
    for references in _batches(left_over(holdings.references, holdings.items), cancelled):
        removal.forget(references, (), cancelled)
    for marks in _batches(_stray_marks(store, holdings), cancelled):
        removal.forget((), marks, cancelled)
    remove_free_locks(store.root / "locks")
    sweep(store.vm_folder / "run")
    return Pruned(tuple(removed), holdings.size - sum(item.size for item in removed), complete)


def _batches(things: Sequence[_T], cancelled: threading.Event | None) -> Iterator[Sequence[_T]]:
    """A few things at a time: whoever waits at the gate has it in between. Raises InterruptedBuildError."""
    waits = cancelled or threading.Event()
    for begin in range(0, len(things), _BATCH):
        if waits.wait(2 * GATE_POLL if begin else 0):
            raise InterruptedBuildError
        yield things[begin : begin + _BATCH]


def _stray_marks(store: Store, holdings: Holdings) -> list[str]:
    """Of uses of things that went some other way."""
    known = {name for item in holdings.items for name in item.noted}
    return [name for name, used in store.uses.times().items() if name not in known and used < holdings.guard]
