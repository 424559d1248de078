"""Cleaning a store, while builds may use it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from cache.collection.choose import choose, left_over
from cache.collection.item import Item
from cache.collection.policy import Policy
from cache.collection.sweep import empty, take_away, unused
from cache.locks import remove_free_locks
from cache.store import Store
from engine.collection.survey import survey
from engine.vm.runfolder import sweep
from machinefile.errors import StoreError


@dataclass(frozen=True, slots=True)
class Pruned:
    """What came of it."""

    removed: tuple[Item, ...]
    """Or what would have been."""
    left: int
    """Bytes on the disk that the store still has."""

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
) -> Pruned:
    """Remove what a policy takes. What another process uses, or made since it began, stays.

    What goes is chosen without disturbing anybody; only if there is something is it chosen again, and renamed away,
    with the gate of the store held alone. Raises StoreError (`store-damaged`: nobody knows which images are kept);
    InterruptedBuildError as `survey`, when nothing was removed.
    """
    if not store.names.is_sound():
        raise StoreError(
            "the names of images cannot be read, so it is not known what they need",
            code="store-damaged",
            hint="run: mbuild cache check --repair",
        )
    holdings = survey(store, cancelled, deadline)
    removed = choose(holdings, policy, time.time())
    if not dry_run and (removed or left_over(holdings.references, holdings.items)):
        trash = store.folder()
        with store.uses.gate.alone(cancelled):
            holdings = survey(store, cancelled, deadline)
            with unused(choose(holdings, policy, time.time())) as removed:
                going = {item.name for item in removed}
                staying = [item for item in holdings.items if item.name not in going]
                gone = (reference.entry for reference in left_over(holdings.references, staying))
                take_away(store, removed, gone, trash)
                _forget_marks(store, staying, holdings.guard)
        empty(trash)
    if not dry_run:
        remove_free_locks(store.root / "locks")
        sweep(store.vm_folder / "run")
    return Pruned(removed, holdings.size - sum(item.size for item in removed))


def _forget_marks(store: Store, staying: list[Item], guard: float) -> None:
    """Of things that went some other way."""
    known = {name for item in staying for name in item.noted}
    for name, used in store.uses.times().items():
        if name not in known and used < guard:
            store.uses.forget(name)
