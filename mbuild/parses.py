"""Machinefiles that were read before need no parser: what is known of them, from the store and back."""

from __future__ import annotations

from pathlib import Path

from cache.parses import KnownParses
from cache.store import Store

_recalled: list[KnownParses] = []


def recall(root: Path, machinefile: Path) -> None:
    """Know what the store in `root` knows of a Machinefile."""
    known = KnownParses(root / "contexts", machinefile)
    known.load()
    _recalled.append(known)


def remember(store: Store) -> None:
    """Write what was learned of the Machinefiles that were recalled. What cannot be written is parsed again."""
    while _recalled:
        _recalled.pop().save(store.temporary)
