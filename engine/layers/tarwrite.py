"""Writes canonical layers: equal entries give equal bytes, whatever machine, user, umask or locale made them.

The rules, all of them: entries sorted by the bytes of their path; of files that are hard-linked the first holds the
content and the others link to it; a directory's opaque marker right behind it; ustar headers with numeric owners and
no names; a PAX header only for an entry that needs one (path or link of more than 100 bytes, a number or a
fraction that the field does not hold, attributes), its records sorted, the ustar prefix never used; two zero
blocks at the end and no further padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from io import FileIO
from itertools import pairwise
from typing import NamedTuple, Protocol

from engine.layers.compression import CHUNK, Sink, Source
from engine.layers.entry import Entry, EntryType
from engine.layers.headerwrite import header_blocks
from engine.layers.index import KeptFiles, LayerIndex
from engine.layers.names import OPAQUE_MARKER, ancestors_of, encode, join, parent_of
from engine.layers.tarheader import BLOCK, ZERO_BLOCK
from engine.layers.tree import Contents
from machinefile.errors import HostError
from machinefile.values import dataclass

_FILE = EntryType.FILE
_SMALL = 64 << 10
"""Bytes: the content of a file up to this is read whole, and written in one piece."""
_PADDING = tuple(map(bytes, range(BLOCK)))
"""Zeros, so many."""

Opener = Callable[[], Source]
"""Opens a file's content from its start; closed after use if it has a `close`."""


class Item(NamedTuple):
    """An entry, and where its content comes from: None for all but files that have some."""

    entry: Entry
    open: Opener | None = None


class Beside(Protocol):
    """Takes the files of a layer while it is written: each begins with its entry, and what follows is its content and
    zeros up to a whole block."""

    def begin(self, entry: Entry, header: bytes) -> None:
        """A FILE, with the header that it has in the layer."""
        ...

    def write(self, data: bytes) -> None:
        """Some of its content."""
        ...


@dataclass(frozen=True, slots=True)
class WrittenLayer:
    """What a layer that was written is, and what is in it."""

    index: LayerIndex

    @property
    def diff_id(self) -> str:
        """`sha256:...` of the uncompressed tar."""
        return self.index.diff_id

    @property
    def size(self) -> int:
        """Bytes of the uncompressed tar."""
        return self.index.size


def write_layer(
    items: Iterable[Item], out: Sink, *, digest: Callable[[], str] | None = None, beside: Beside | None = None
) -> WrittenLayer:
    """Write a layer of `items`, in any order, as an uncompressed tar. Contents are opened one after another.

    `digest` gives `sha256:...` of what was written to `out`, where that is known; else it is made here. `beside` gets
    the files too.

    The caller gives each path once, hard links together with their file, and clean paths. Raises HostError
    (`content-changed`) when a content is not as long as its entry says, ValueError for a path given twice or a
    hard link without its file.
    """
    ordered = canonical(items)
    writer = LayerWriter(out, digest, beside)
    for item in ordered:
        writer.add(item)
    return WrittenLayer(writer.finish())


def canonical(items: Iterable[Item]) -> tuple[Item, ...]:
    """Sorted by path; of each group of hard links the first has the content, and all have its metadata; what Linux does
    not know of (a symlink's mode, anything of a whiteout beside its time) always the same."""
    ordered = sorted(items, key=lambda item: item.entry.sort_key)
    if any(one.entry.path == next_one.entry.path for one, next_one in pairwise(ordered)):
        raise ValueError("a path is given twice")
    # Most layers have no hard links, and may have very many files.
    linked = any(item.entry.type is EntryType.HARDLINK for item in ordered)
    by_path = {item.entry.path: item for item in ordered} if linked else {}
    holders: dict[str, str] = {}
    result: list[Item] = []
    for item in ordered:
        entry = item.entry
        if entry.type is EntryType.HARDLINK:
            item = _canonical_link(entry, by_path, holders)
        elif entry.type is _FILE:
            holder = holders.setdefault(entry.path, entry.path) if linked else entry.path
            if holder != entry.path:
                item = Item(_linked(entry, entry.path, holder))
        elif entry.type is EntryType.WHITEOUT:
            item = Item(Entry(entry.path, EntryType.WHITEOUT, 0, mtime=entry.mtime))
        elif entry.type is EntryType.SYMLINK and entry.mode != 0o777:
            item = Item(replace(entry, mode=0o777))
        result.append(item)
    return tuple(result)


def _canonical_link(entry: Entry, by_path: dict[str, Item], holders: dict[str, str]) -> Item:
    file = by_path.get(entry.link)
    if file is None or file.entry.type is not EntryType.FILE:
        raise ValueError(f"{entry.path!r} is a hard link to {entry.link!r}, which is no file of the layer")
    holder = holders.setdefault(entry.link, entry.path)
    if holder == entry.path:
        return Item(replace(file.entry, path=entry.path), file.open)
    return Item(_linked(file.entry, entry.path, holder))


def _linked(file: Entry, path: str, holder: str) -> Entry:
    return Entry(path, EntryType.HARDLINK, file.mode, file.uid, file.gid, 0, file.mtime, holder)


class LayerWriter:
    """Writes entries in the order given, which must be canonical, and indexes what it writes."""

    def __init__(self, out: Sink, digest: Callable[[], str] | None = None, beside: Beside | None = None) -> None:
        """See `write_layer`."""
        self._out = out
        self._beside = beside
        self._hash = hashlib.sha256() if digest is None else None
        self._digest = digest or self._own_digest
        self._size = 0
        self._placed: list[tuple[Entry, int]] = []
        self._kept = KeptFiles()

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        if self._hash is not None:
            self._hash.update(data)
        self._size += len(data)

    def _own_digest(self) -> str:
        return "sha256:" + self._hash.hexdigest() if self._hash is not None else ""

    def _write_content(self, data: bytes) -> None:
        self._write(data)
        if self._beside is not None:
            self._beside.write(data)

    def add(self, item: Item) -> None:
        """Write one entry and its content."""
        entry = item.entry
        header = header_blocks(entry)
        if entry.type is _FILE:
            self._placed.append((entry, self._size + len(header)))
            if self._beside is not None:
                self._beside.begin(entry, header)
            if entry.size <= _SMALL:
                self._put_small(entry, header, item.open)
            else:
                self._write(header)
                self._copy(entry, item.open)
            return
        self._placed.append((entry, 0))
        self._write(header)
        if entry.opaque:
            marker = Entry(entry.path, EntryType.FILE, 0, mtime=entry.mtime)
            self._write(header_blocks(marker, encode(join(entry.path, OPAQUE_MARKER))))

    def _put_small(self, entry: Entry, header: bytes, opener: Opener | None) -> None:
        """Write a file in one piece."""
        content = b""
        if opener is not None and entry.size:
            content = _small(opener(), entry.size + 1)
        if len(content) != entry.size:
            raise _content_changed(entry)
        if self._kept.wants(entry):
            self._kept.add(entry.path, content)
        rest = content + _PADDING[-entry.size % BLOCK]
        self._write(header + rest)
        if self._beside is not None:
            self._beside.write(rest)

    def _copy(self, entry: Entry, opener: Opener | None) -> None:
        keep = self._kept.wants(entry)
        left = entry.size
        kept: list[bytes] = []
        source = opener() if opener is not None and left else None
        try:
            while source is not None and left and (chunk := source.read(min(left, CHUNK))):
                self._write_content(chunk)
                left -= len(chunk)
                if keep:
                    kept.append(chunk)
            if left or (source is not None and source.read(1)):
                raise _content_changed(entry)
        finally:
            _close(source)
        if entry.size % BLOCK:
            self._write_content(_PADDING[-entry.size % BLOCK])
        if keep:
            self._kept.add(entry.path, b"".join(kept))

    def finish(self) -> LayerIndex:
        """Write the end and give the index."""
        self._write(ZERO_BLOCK * 2)
        diff_id = self._digest()
        return LayerIndex.of(
            Contents(tuple(self._placed), implied_by([entry for entry, _ in self._placed])),
            diff_id=diff_id,
            size=self._size,
            kept=self._kept,
        )


def implied_by(entries: Sequence[Entry]) -> tuple[tuple[str, bool], ...]:
    """Directories that the entries stand in without an entry of their own, sorted; the root if it has none."""
    used = {""}
    for entry in entries:
        parent = parent_of(entry.path)
        if parent not in used:
            used.update(ancestors_of(parent))
            used.add(parent)
    used.difference_update(entry.path for entry in entries if entry.type is EntryType.DIRECTORY)
    return tuple((path, False) for path in sorted(used, key=encode))


def _small(source: Source, most: int) -> bytes:
    """Up to so many bytes, one more than there should be; fewer only at the end. Closes it."""
    try:
        content = source.read(most)
        if isinstance(source, FileIO) and len(content) == most - 1:
            return content  # as long as it should be, and the kernel would have given more of a longer one
        while len(content) < most and (more := source.read(most - len(content))):
            content += more
        return content
    finally:
        _close(source)


def _close(source: Source | None) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()


def _content_changed(entry: Entry) -> HostError:
    return HostError(
        f"{entry.path!r} is not {entry.size} bytes long any more",
        code="content-changed",
        hint="it changed while it was read: build again when nothing writes to it",
    )
