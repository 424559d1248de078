"""Many layers as one: the top wins, whiteouts have done their work and are gone, no layer is needed below."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from engine.layers.compression import CHUNK, Sink
from engine.layers.content import BlobOpener, LayerFiles
from engine.layers.disk import making_disk
from engine.layers.entry import Entry, EntryType
from engine.layers.index import LayerIndex
from engine.layers.limits import LayerLimits
from engine.layers.names import join
from engine.layers.root import Located, RootView
from engine.layers.tarwrite import Item, WrittenLayer, write_layer
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Merged:
    """An entry of the merged file system."""

    entry: Entry
    """Never a WHITEOUT, never opaque. Hard links point at the first path, in sorted order, that is left of them."""
    source: Located
    """Where its content is, for a FILE."""


def merged_entries(root: RootView) -> tuple[Merged, ...]:
    """Everything that is in the root, sorted by path. The root directory itself only if a layer has it."""
    located = [one for one in root.walk() if one.entry.path or _is_told(root)]
    located.sort(key=lambda one: one.entry.sort_key)
    first: dict[tuple[int, str], str] = {}
    found: list[Merged] = []
    for one in located:
        file = root.file(one)
        entry = replace(file.entry, path=one.entry.path, opaque=False)
        if entry.type is EntryType.FILE:
            holder = first.setdefault((file.layer, file.entry.path), entry.path)
            if holder != entry.path:
                mode, uid, gid, mtime = entry.mode, entry.uid, entry.gid, entry.mtime
                entry = Entry(entry.path, EntryType.HARDLINK, mode, uid, gid, 0, mtime, holder)
        found.append(Merged(entry, file))
    return tuple(found)


def _is_told(root: RootView) -> bool:
    return any("" in index for index in root.indexes)


@dataclass(frozen=True, slots=True)
class Folder:
    """Layers, lowest first, whose files go into a folder of that name; with the empty name into the root."""

    name: str
    indexes: Sequence[LayerIndex]
    openers: Sequence[BlobOpener]


def flatten(
    folders: Sequence[Folder],
    out: Sink,
    *,
    limits: LayerLimits | None = None,
    scratch: Path | None = None,
) -> WrittenLayer:
    """Write all layers of each folder as one, and the folders as one canonical layer. Contents are copied through a
    nameless file a folder in `scratch`, so that each layer is read once."""
    items: list[Item] = []
    with ExitStack() as held:
        for folder in folders:
            merged = merged_entries(RootView(folder.indexes))
            wanted = [one.source for one in merged if one.entry.type is EntryType.FILE]
            files = LayerFiles(folder.indexes, folder.openers, limits)
            contents = held.enter_context(files.gather(wanted, scratch))
            if folder.name and not (merged and merged[0].entry.path == ""):
                items.append(Item(Entry(folder.name, EntryType.DIRECTORY, 0o755)))
            items += (
                Item(
                    _moved(one.entry, folder.name),
                    partial(contents.open, one.source) if one.entry.type is EntryType.FILE else None,
                )
                for one in merged
            )
        return write_layer(items, out)


def _moved(entry: Entry, folder: str) -> Entry:
    """The entry in a folder. A symbolic link stays: it is followed where the folder is the root."""
    if not folder:
        return entry
    link = join(folder, entry.link) if entry.type is EntryType.HARDLINK else entry.link
    return replace(entry, path=join(folder, entry.path) if entry.path else folder, link=link)


def merge_disk(
    indexes: Sequence[LayerIndex],
    openers: Sequence[BlobOpener],
    destination: Path,
    *,
    limits: LayerLimits | None = None,
) -> None:
    """Make one squashfs of all layers, lowest first, with no copy in between: it does not mind the order of files.

    Raises HostError: `program-missing`, `disk-failed`, `disk-full`; nothing is left behind then.
    """
    merged = merged_entries(RootView(indexes))
    files = {(one.source.layer, one.source.entry.path): one for one in merged if one.entry.type is EntryType.FILE}
    with making_disk(destination) as disk:
        for located, content in LayerFiles(indexes, openers, limits).stream([one.source for one in files.values()]):
            entry = files[located[0].layer, located[0].entry.path].entry
            disk.add_file(entry, iter(partial(content.read, CHUNK), b""))
        for one in merged:
            if one.entry.type is not EntryType.FILE:
                disk.add(one.entry)
