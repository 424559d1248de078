"""Layers and guests' changes made of a few entries, and a guest that makes them."""

from __future__ import annotations

import io
from typing import Any

from engine.layers.changes_write import write_changes
from engine.layers.compression import GzipWriter, ZstdWriter
from engine.layers.entry import Entry, EntryType
from engine.layers.tarwrite import Item, write_layer
from engine.vm.execution import Execution


def file_item(path: str, content: bytes, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Item:
    """A file with content."""
    return Item(Entry(path, EntryType.FILE, mode, uid, gid, size=len(content)), lambda: io.BytesIO(content))


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
    """A command language for tests: `write PATH TEXT`, `fail CODE`, `nothing`, `environment PATH`."""
    words = execution.argv[-1].split(" ", 2)
    match words:
        case ["write", path, text]:
            return 0, f"wrote {path}\n".encode(), changes_of(file_item(path, text.encode()))
        case ["fail", code]:
            return int(code), b"it failed\n", b""
        case ["environment", path]:
            seen = "\n".join(f"{name}={value}" for name, value in execution.environment)
            return 0, b"", changes_of(file_item(path, seen.encode()))
        case _:
            return 0, b"", changes_of()


def pressed(writer: type[GzipWriter] | type[ZstdWriter], data: bytes, *options: Any) -> bytes:
    """What a compressor makes of data."""
    out = io.BytesIO()
    one = writer(out, *options)
    one.write(data)
    one.finish()
    return out.getvalue()
