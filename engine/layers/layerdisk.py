"""Layers as read-only disks: a squashfs each, made in the pass over the blob that checks and indexes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from engine.layers.compression import Source, decompress
from engine.layers.disk import COMPRESSION, SquashfsWriter, beginning_disk
from engine.layers.entry import Entry, EntryType
from engine.layers.index import KeptFiles, LayerIndex
from engine.layers.limits import LayerLimits
from engine.layers.root import RootView, default_directory
from engine.layers.tarread import LayerReader, Member
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

DISK_VERSION = 1
"""Raised when the same layer is to give other disks: it is in their names."""


class Blob(Source, Protocol):
    """What a layer is read from; twice if need be."""

    def seek(self, offset: int, /) -> int:
        """Go to a place in it."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedLayer:
    """A layer that was checked from end to end."""

    index: LayerIndex
    disk: Path | None
    """The squashfs; None when none was asked for."""


def disk_id(diff_id: str, implied: Mapping[str, Entry]) -> str:
    """Names a layer's disk: 64 hexadecimal digits.

    A disk holds the metadata that implied directories have in the layers below; the same layer on another base may
    thus be another disk. On most bases it is not.
    """
    told = [
        [path, entry.mode, entry.uid, entry.gid, entry.mtime, [[name, value.hex()] for name, value in entry.xattrs]]
        for path, entry in sorted(implied.items())
        if _plain(entry) != default_directory(path)
    ]
    record = json.dumps([DISK_VERSION, COMPRESSION, diff_id, told])
    return hashlib.sha256(record.encode("ascii")).hexdigest()


def disk_path(folder: Path, index: LayerIndex, below: RootView) -> Path:
    """Where `prepare_layer` and `make_disk` put the disk of a layer that is laid on `below`."""
    return folder / f"{disk_id(index.diff_id, below.implied(index))}.squashfs"


def prepare_layer(
    blob: Blob,
    *,
    diff_id: str,
    limits: LayerLimits,
    folder: Path | None = None,
    below: RootView | None = None,
    scratch: Path | None = None,
) -> PreparedLayer:
    """Check a layer, index it and make its disk, in one pass over its blob (compressed or not, at its start).

    The disk goes to `disk_path(folder, index, below)`; without a folder none is made. `below` is what the layer is
    laid on, nothing when not given. `scratch` is where the disk is while it is half made, on the same file system as
    `folder`, which it is when not given. A layer that holds a file twice takes a second pass: `blob` must be
    seekable. The disk is not flushed. On any error nothing is left behind.
    Raises UntrustedDataError: `diff-id-mismatch`, `layer-...`; HostError: `program-missing`, `disk-failed`,
    `disk-full`.
    """
    root = below if below is not None else RootView(())
    if folder is None:
        return PreparedLayer(_read(blob, diff_id, limits, None)[0], None)
    with beginning_disk(folder, scratch) as disk:
        index, repeated = _read(blob, diff_id, limits, disk)
        implied = root.implied(index)
        destination = folder / f"{disk_id(index.diff_id, implied)}.squashfs"
        if not repeated:
            disk.add_others(index, implied)
            disk.finish()
            disk.publish(destination)
            return PreparedLayer(index, destination)
    blob.seek(0)
    return PreparedLayer(index, make_disk(blob, folder, index=index, below=root, limits=limits, scratch=scratch))


def make_disk(
    blob: Source,
    folder: Path,
    *,
    index: LayerIndex,
    below: RootView | None = None,
    limits: LayerLimits | None = None,
    scratch: Path | None = None,
) -> Path:
    """The disk of a layer that was checked before, made from its blob unless it is there.

    Raises as `prepare_layer`.
    """
    implied = (below if below is not None else RootView(())).implied(index)
    destination = folder / f"{disk_id(index.diff_id, implied)}.squashfs"
    if destination.exists():
        return destination
    reader = LayerReader(decompress(blob, limits or LayerLimits()), limits or LayerLimits())
    with beginning_disk(folder, scratch) as disk:
        for member in reader:
            entry = member.entry
            if index.type_of(entry.path) is EntryType.FILE and index.offset(entry.path) == member.offset:
                disk.add_file(entry, member.content.chunks())
        _check_diff_id(reader, index.diff_id)
        disk.add_others(index, implied)
        disk.finish()
        disk.publish(destination)
    return destination


def _read(blob: Source, diff_id: str, limits: LayerLimits, disk: SquashfsWriter | None) -> tuple[LayerIndex, bool]:
    """The index, and whether the disk got a file that is not in the layer any more."""
    reader = LayerReader(decompress(blob, limits), limits)
    kept = KeptFiles()
    streamed: set[str] = set()
    repeated = False
    for member in reader:
        path = member.entry.path
        if member.entry.type is not EntryType.FILE:
            continue
        repeated = repeated or path in streamed
        streamed.add(path)
        _pass_on(member, None if repeated else disk, kept)
    _check_diff_id(reader, diff_id)
    index = LayerIndex.of(reader.tree.finish(), diff_id=diff_id, size=reader.stream.offset, kept=kept)
    return index, repeated or any(index.type_of(path) is not EntryType.FILE for path in streamed)


def _pass_on(member: Member, disk: SquashfsWriter | None, kept: KeptFiles) -> None:
    chunks: Iterable[bytes] = ()
    if kept.wants(member.entry):
        content = member.content.read()
        kept.add(member.entry.path, content)
        chunks = (content,)
    elif disk is not None:
        chunks = member.content.chunks()
    if disk is not None:
        disk.add_file(member.entry, chunks)


def _check_diff_id(reader: LayerReader, expected: str) -> None:
    found = reader.stream.diff_id
    if found != expected:
        raise UntrustedDataError(
            f"the layer is not what its image says: its content is {found}, not {expected}",
            code="diff-id-mismatch",
            hint="the image is damaged: pull it again, or build it again",
        )


def _plain(entry: Entry) -> Entry:
    return replace(entry, opaque=False)
