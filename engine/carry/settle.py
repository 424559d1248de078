"""What a place is to say of a step that it knows already."""

from __future__ import annotations

import time
from collections.abc import Set
from dataclasses import replace
from typing import Protocol, TypeVar

from cache.carry.entry import CacheEntry, CarriedMount

_Signed = TypeVar("_Signed", CacheEntry, CarriedMount)


class Signs(Protocol):
    """Who signs entries."""

    def sign(self, entry: _Signed, /) -> _Signed:
        """The entry with a signature more, in place of an older one by the same key."""
        ...


def settled(own: CacheEntry, old: CacheEntry | None, there: Set[str], signer: Signs | None = None) -> CacheEntry:
    """The entry that a place is to have: its `old` one, if that says the same, with all who signed it; else our own.

    `there` are the digests of blobs that are known to be at the place.
    """
    entry = own
    if old is not None:
        if _as_good(old, own, there, vouched=signer is not None):
            entry = replace(old, used=max(old.used, own.used))
        elif old.records in there:
            entry = replace(own, records=old.records)  # the records of one key are the same
    return entry if signer is None else signer.sign(entry)


def differs(entry: CacheEntry, old: CacheEntry | None) -> bool:
    """Whether they tell different things; the day of the last use is none."""
    return (
        old is None
        or replace(entry, used=old.used, signatures=()) != replace(old, signatures=())
        or (set(entry.signatures) != set(old.signatures))
    )


def _as_good(old: CacheEntry, own: CacheEntry, there: Set[str], *, vouched: bool) -> bool:
    """Whether `old` may stay. Who signs it has to know its blobs, and not only what they are said to hold."""
    if [step and step.diff_id for step in old.result.steps] != [step and step.diff_id for step in own.result.steps]:
        return False
    if old.content != own.content and own.content != own.key:
        return False
    if vouched and (old.result.layers != own.result.layers or old.result.created > time.time()):
        return False
    if old.records and old.records not in there:
        return False
    # The time says how fresh a result is: that of the newest counts.
    return round(old.result.created) >= round(own.result.created) and all(
        layer.digest in there for layer in old.result.layers
    )
