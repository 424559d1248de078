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

    def trusts(self, entry: CacheEntry | CarriedMount, /) -> bool:
        """Whether this signer has signed it as it is."""
        ...


def settled(
    own: CacheEntry, old: CacheEntry | None, there: Set[str], signer: Signs | None = None, *, hearsay: bool = False
) -> CacheEntry:
    """The entry that a place is to have: its `old` one, if that says the same, with all who signed it; else our own.

    `there` are the digests of blobs that are known to be at the place. Who signs takes over nothing that the same key
    has not signed there: anybody may have written it. What is `hearsay` is not signed.
    """
    if signer is None or hearsay:
        return _unsigned(own, old, there, signer)
    said = old if old is not None and signer.trusts(old) else None
    if said is not None:
        if _as_good(said, own, there) and said.result.created <= time.time():
            return replace(said, used=max(said.used, own.used))
        if own.content == own.key:
            if _diff_ids(said) == _diff_ids(own):
                own = replace(own, content=said.content)
            elif said.content != said.key and _is_whole(said, there):
                return replace(said, used=max(said.used, own.used))
        if not own.records and said.records in there:
            own = replace(own, records=said.records)
    if old is not None and old.payload() == own.payload():
        own = replace(old, used=max(old.used, own.used))
    return signer.sign(own)


def differs(entry: CacheEntry, old: CacheEntry | None) -> bool:
    """Whether they tell different things; the day of the last use is none."""
    return (
        old is None
        or replace(entry, used=old.used, signatures=()) != replace(old, signatures=())
        or (set(entry.signatures) != set(old.signatures))
    )


def _unsigned(own: CacheEntry, old: CacheEntry | None, there: Set[str], signer: Signs | None) -> CacheEntry:
    if old is None:
        return own
    if _as_good(old, own, there) or (signer is not None and signer.trusts(old) and _is_whole(old, there)):
        return replace(old, used=max(old.used, own.used))
    # The records of one key are the same.
    return replace(own, records=old.records) if old.records in there else own


def _as_good(old: CacheEntry, own: CacheEntry, there: Set[str]) -> bool:
    """Whether `old` may stay."""
    if _diff_ids(old) != _diff_ids(own):
        return False
    if old.content != own.content and own.content != own.key:
        return False
    if old.records and old.records not in there:
        return False
    # The time says how fresh a result is: that of the newest counts.
    return round(old.result.created) >= round(own.result.created) and _is_whole(old, there)


def _diff_ids(entry: CacheEntry) -> list[str | None]:
    return [None if step is None else step.diff_id for step in entry.result.steps]


def _is_whole(entry: CacheEntry, there: Set[str]) -> bool:
    return all(layer.digest in there for layer in entry.result.layers)
