"""Layers and guests' changes made of a few entries, for tests of what differs."""

from __future__ import annotations

import io

from engine.layers.changes_write import write_changes
from engine.layers.entry import Entry, EntryType
from engine.layers.tarwrite import Item, write_layer
from engine.vm.execution import Execution


def file_item(path: str, content: bytes, mode: int = 0o644) -> Item:
    """A file with content."""
    return Item(Entry(path, EntryType.FILE, mode, size=len(content)), lambda: io.BytesIO(content))


def tar_of(*items: Item) -> bytes:
    """A layer of these entries."""
    out = io.BytesIO()
    write_layer(items, out)
    return out.getvalue()


def changes_of(*items: Item) -> bytes:
    """What a guest would say if it had made these entries."""
    out = io.BytesIO()
    write_changes(items, out)
    return out.getvalue()


def obey(execution: Execution) -> tuple[int, bytes, bytes]:
    """A command language for tests: `write PATH TEXT`."""
    _, path, text = execution.argv[-1].split(" ", 2)
    return 0, b"", changes_of(file_item(path, text.encode()))
