"""Writes change streams, as the guest's agent does: for tests, and for sandboxes that are no microVM."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from engine.layers.changeformat import (
    EXTENT,
    EXTENT_COUNT,
    HEADER,
    RECORD_MAGIC,
    STREAM_MAGIC,
    XATTR,
    RecordType,
    padding,
)
from engine.layers.compression import CHUNK, Sink, Source
from engine.layers.entry import Entry, EntryType
from engine.layers.names import OPAQUE_XATTR, ancestors_of, encode
from engine.layers.tarwrite import Item, canonical

_TYPES = {
    EntryType.FILE: RecordType.FILE,
    EntryType.DIRECTORY: RecordType.DIRECTORY,
    EntryType.SYMLINK: RecordType.SYMLINK,
    EntryType.CHARACTER: RecordType.CHARACTER,
    EntryType.WHITEOUT: RecordType.CHARACTER,
    EntryType.BLOCK: RecordType.BLOCK,
    EntryType.FIFO: RecordType.FIFO,
    EntryType.HARDLINK: RecordType.HARDLINK,
}


def write_changes(items: Iterable[Item], out: Sink) -> int:
    """Write a change stream of entries in any order, and give its length in bytes.

    The root, and directories that entries stand in, are added where they are missing. Raises as `canonical`.
    """
    by_path = {item.entry.path: item for item in items}
    missing = {"", *(step for path in by_path for step in ancestors_of(path))} - by_path.keys()
    added = [Item(Entry(path, EntryType.DIRECTORY, 0o755)) for path in missing]
    writer = ChangeWriter(out)
    # Sorted by bytes is not depth first (`a-b` comes before `a/b`), and needs not be: parents come first.
    for entry, opener in canonical([*by_path.values(), *added]):
        writer.add(entry, opener() if opener is not None else None)
    return writer.finish()


def pack_extents(extents: Sequence[tuple[int, int]]) -> bytes:
    """Extents as a record has them."""
    return EXTENT_COUNT.pack(len(extents)) + b"".join(EXTENT.pack(*extent) for extent in extents)


class ChangeWriter:
    """Writes records in the order given."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._at = 0
        self._records = 0
        self._write(STREAM_MAGIC)

    def add(self, entry: Entry, content: Source | None = None) -> None:
        """Write an entry's record: a whiteout as overlayfs has it, a 0:0 device; an opaque directory with its mark."""
        if entry.opaque:
            entry = replace(entry, xattrs=(*entry.xattrs, (OPAQUE_XATTR, b"y")))
        self.record(_TYPES[entry.type], entry, content)

    def record(self, kind: int, entry: Entry, content: Source | None = None, tail: bytes = b"") -> None:
        """Write a record of any type; the entry's own type is not looked at. `tail` stands behind the attributes."""
        path, link = encode(entry.path), encode(entry.link)
        size = entry.size if kind in (RecordType.FILE, RecordType.EXTENTS) else 0
        seconds = int(entry.mtime // 1)
        self._write(
            HEADER.pack(
                RECORD_MAGIC,
                kind,
                len(entry.xattrs),
                entry.mode,
                entry.uid,
                entry.gid,
                *entry.device,
                size,
                seconds,
                int((entry.mtime - seconds) * 1e9),
                len(path),
                len(link),
            )
        )
        self._write(path + link)
        for name, value in entry.xattrs:
            self._write(XATTR.pack(len(encode(name)), len(value)) + encode(name) + value)
        self._write(tail)
        self._write(bytes(padding(self._at)))
        left = size if kind == RecordType.FILE else 0
        while left and content is not None and (chunk := content.read(min(left, CHUNK))):
            self._write(chunk)
            left -= len(chunk)
        self._write(bytes(padding(self._at)))
        self._records += 1

    def extents(self, entry: Entry, extents: Sequence[tuple[int, int]]) -> None:
        """Write the record of a file that stays where it is: offset on the scratch disk, or ZEROS, and length."""
        self.record(RecordType.EXTENTS, entry, tail=pack_extents(extents))

    def finish(self) -> int:
        """Write the end record and give the stream's length."""
        self._write(HEADER.pack(RECORD_MAGIC, RecordType.END, 0, 0, 0, 0, 0, 0, self._records, 0, 0, 0, 0))
        self._write(bytes(padding(self._at)))
        return self._at

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._at += len(data)
