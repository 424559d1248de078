"""What to call steps to people."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from cache.collection.item import Item, Sort
from cache.index import Kind
from cache.records import unpack
from cache.store import Store


def titled(store: Store, items: Iterable[Item]) -> tuple[Item, ...]:
    """The items, those that are steps with their instructions: these are in records, which may be large and are read
    only for what is shown."""
    return tuple(
        replace(item, title=_instruction(store, item.id)) if item.sort is Sort.STEP else item for item in items
    )


def _instruction(store: Store, key: str) -> str:
    record = unpack(store.index.get(Kind.RECORD, key))
    return (record.instruction or record.operation.upper()) if record is not None else ""
