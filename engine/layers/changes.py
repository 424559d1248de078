"""What a step changed: the overlay's upper directory as the guest wrote it, and the layer it makes.

The guest ran the user's code, so its stream is read as strictly as a layer from elsewhere.

Kept of the extended attributes are `security.capability`, as Docker and BuildKit keep it, and `user.*`, as buildah
does. The rest belongs to the machine (SELinux labels, IMA, trusted.*) or cannot be held by the disks that later
steps run on (POSIX ACLs).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO, NoReturn

from engine.layers.changeformat import (
    ALIGNMENT,
    EXTENT,
    EXTENT_COUNT,
    HEADER,
    MAX_EXTENTS,
    RECORD_MAGIC,
    STREAM_MAGIC,
    XATTR,
    ZEROS,
    RecordType,
)
from engine.layers.compression import Sink
from engine.layers.entry import Entry, EntryType
from engine.layers.extents import HOLE, Extent, Scattered, reading
from engine.layers.limits import LayerLimits
from engine.layers.names import (
    OPAQUE_XATTR,
    WHITEOUT_PREFIX,
    BadPathError,
    ancestors_of,
    clean_path,
    decode,
    encode,
    parent_of,
)
from engine.layers.tarheader import MAX_ID
from engine.layers.tarwrite import Beside, Item, WrittenLayer, write_layer
from engine.layers.times import NORMAL, Times
from machinefile.errors import StepError, UntrustedDataError
from machinefile.values import dataclass

_TYPES = {
    RecordType.FILE: EntryType.FILE,
    RecordType.EXTENTS: EntryType.FILE,
    RecordType.DIRECTORY: EntryType.DIRECTORY,
    RecordType.SYMLINK: EntryType.SYMLINK,
    RecordType.CHARACTER: EntryType.CHARACTER,
    RecordType.BLOCK: EntryType.BLOCK,
    RecordType.FIFO: EntryType.FIFO,
    RecordType.HARDLINK: EntryType.HARDLINK,
}
_OVERLAY = "trusted.overlay."
_MAX_XATTRS = 1024
_AHEAD = 128 << 10
"""Bytes that are read at once."""


@dataclass(frozen=True, slots=True)
class Change:
    """An entry of the change stream."""

    entry: Entry
    extents: tuple[Extent, ...] = ()
    """Where a FILE's content lies."""
    scratch: bool = False
    """Whether that is on the scratch disk, not in the stream."""


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """All that a step changed. Good for as long as its stream is open."""

    changes: tuple[Change, ...]
    """In the stream's order; the root is not among them: as in BuildKit, its metadata is in no layer."""
    stream: BinaryIO
    scratch: BinaryIO | None = None
    """The disk that large files were left on."""

    @property
    def is_empty(self) -> bool:
        """Whether the step changed nothing."""
        return not self.changes


def read_changes(stream: BinaryIO, limits: LayerLimits, scratch: BinaryIO | None = None) -> ChangeSet:
    """Read what the guest wrote, contents aside. `stream` is seekable; `scratch` is the disk that it may refer to.

    Raises UntrustedDataError: `changes-malformed`, `changes-unsupported` (overlayfs features that need the layers
    below to make sense), `changes-too-large`; StepError `changes-name` for a file that no image can hold.
    """
    scratch_size = scratch.seek(0, os.SEEK_END) if scratch is not None else 0
    return ChangeSet(tuple(_Reader(stream, limits, scratch_size).changes()), stream, scratch)


def layer_from_changes(
    changes: ChangeSet,
    out: Sink,
    *,
    digest: Callable[[], str] | None = None,
    beside: Beside | None = None,
    times: Times = NORMAL,
    exclude: frozenset[str] = frozenset(),
    guard: Callable[[Item], Item] | None = None,
) -> WrittenLayer:
    """Write the changes as a canonical layer. `exclude`: paths left out with everything below them.

    All times are NORMAL_TIME unless `times` keeps them. Of hard links the first path in sorted order that is left holds
    the content. `guard` sees every entry, and may wrap its content. `digest`, `beside`: see `write_layer`.
    """
    places = (reading(changes.stream), reading(changes.scratch or changes.stream))
    items: list[Item] = []
    for change in _without(changes.changes, exclude):
        content = Scattered(places[change.scratch], change.extents).reopened if change.extents else None
        items.append(Item(times.of(change.entry), content))
    return write_layer(items if guard is None else map(guard, items), out, digest=digest, beside=beside)


def _without(changes: tuple[Change, ...], exclude: frozenset[str]) -> Iterator[Change]:
    if not exclude:
        yield from changes
        return
    dropped: dict[str, Change] = {}
    heirs: dict[str, str] = {}
    for change in changes:
        entry = change.entry
        if entry.path in exclude or not exclude.isdisjoint(ancestors_of(entry.path)):
            dropped[entry.path] = change
        elif entry.type is EntryType.HARDLINK and entry.link in dropped:
            # The file comes before its links: if it was left out, the first link that stays takes its place.
            heir = heirs.setdefault(entry.link, entry.path)
            file = dropped[entry.link]
            if heir == entry.path:
                yield replace(file, entry=replace(file.entry, path=heir))
            else:
                yield Change(replace(entry, link=heir))
        else:
            yield change


def _malformed(why: str) -> NoReturn:
    raise UntrustedDataError(
        f"what the step changed cannot be read: {why}",
        code="changes-malformed",
        hint="the step may have tampered with its machine; if it did not, run it again",
    )


class _Reader:
    def __init__(self, stream: BinaryIO, limits: LayerLimits, scratch_size: int) -> None:
        self._read_at = reading(stream)
        self._limits = limits
        self._scratch_size = scratch_size
        self._end = stream.seek(0, os.SEEK_END)
        self._at = 0
        self._data = b""
        self._data_at = 0
        """What was read of the stream, and where it begins."""
        self._types: dict[str, EntryType] = {}
        """What came so far; sockets are not in it."""
        self._files: dict[str, Entry] = {}
        self._content = 0
        self._metadata = 0

    def changes(self) -> Iterator[Change]:
        """All records as changes, the root and what no layer holds left out."""
        if self._take(len(STREAM_MAGIC)) != STREAM_MAGIC:
            _malformed("it does not begin as it should")
        for number in range(self._limits.max_entries + 1):
            fields = HEADER.unpack(self._take(HEADER.size))
            if fields[0] != RECORD_MAGIC:
                _malformed(f"record {number} does not begin as it should")
            if fields[1] == RecordType.END:
                if fields[8] != number:
                    _malformed(f"it has {number} records, and says {fields[8]}")
                return
            change = self._record(fields)
            if (number == 0) != (change is not None and not change.entry.path):
                _malformed("the root must come first, and once")
            if change is not None and change.entry.path:
                yield change
        self._too_large("entries")

    def _record(self, fields: tuple[int, ...]) -> Change | None:
        kind, n_xattrs, size = fields[1], fields[2], fields[8]
        path_length, link_length = fields[11], fields[12]
        if path_length > self._limits.max_path or link_length > self._limits.max_path or n_xattrs > _MAX_XATTRS:
            _malformed("a path or a list of attributes is longer than Linux allows")
        path = self._path(self._take(path_length))
        link = decode(self._take(link_length))
        xattrs = self._xattrs(n_xattrs, path) if n_xattrs else {}
        extents = self._extents(path, size) if kind == RecordType.EXTENTS else ()
        self._skip(-self._at % ALIGNMENT)
        if size and kind != RecordType.EXTENTS:
            extents = ((self._at, size),)
            self._pass_content(path, kind, size)
        if kind == RecordType.SOCKET:
            self._check_place(path)
            return None  # as Docker does: nothing listens in an image
        if kind not in _TYPES:
            _malformed(f"{path!r} has the unknown type {kind}")
        entry = self._entry(_TYPES[RecordType(kind)], path, link, fields, xattrs)
        self._check_place(path)
        if not path and entry.type is not EntryType.DIRECTORY:
            _malformed("the root is no directory")
        self._types[path] = entry.type
        if entry.type is EntryType.FILE:
            self._files[path] = entry
        return Change(entry, extents, kind == RecordType.EXTENTS)

    def _entry(self, kind: EntryType, path: str, link: str, fields: tuple[int, ...], xattrs: dict[str, bytes]) -> Entry:
        mode, uid, gid, major, minor, size, seconds, nanoseconds = fields[3:11]
        if mode > 0o7777 or uid > MAX_ID or gid > MAX_ID or nanoseconds >= 1_000_000_000:
            _malformed(f"{path!r} has an impossible mode, owner or time")
        mtime = seconds + nanoseconds / 1e9 if nanoseconds else seconds
        if abs(seconds) > 1 << 40:
            _malformed(f"{path!r} has an impossible time")
        if kind is EntryType.CHARACTER and (major, minor) == (0, 0):
            return Entry(path, EntryType.WHITEOUT, 0, mtime=mtime)
        if kind is EntryType.HARDLINK:
            return self._link(path, link)
        if (kind is EntryType.SYMLINK) != bool(link) or "\0" in link:
            _malformed(f"{path!r} has a link target that cannot be")
        device = (major, minor) if kind in (EntryType.CHARACTER, EntryType.BLOCK) else (0, 0)
        if major >= 1 << 12 or minor >= 1 << 20:
            _malformed(f"{path!r} is a device that cannot be")
        opaque = xattrs.get(OPAQUE_XATTR) == b"y" and kind is EntryType.DIRECTORY
        mode = 0o777 if kind is EntryType.SYMLINK else mode
        return Entry(path, kind, mode, uid, gid, size, mtime, link, device, _kept(xattrs), opaque)

    def _link(self, path: str, link: str) -> Entry:
        file = self._files.get(link)
        if file is None:
            _malformed(f"{path!r} is a hard link to {link!r}, which is no file that came before")
        return Entry(path, EntryType.HARDLINK, file.mode, file.uid, file.gid, 0, file.mtime, link)

    def _path(self, data: bytes) -> str:
        path = decode(data)
        try:
            clean = clean_path(path)
        except BadPathError as error:
            _malformed(f"the path {path!r} cannot be: {error}")
        if clean != path:
            _malformed(f"the path {path!r} is not clean")
        if path.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
            raise StepError(
                f"the step made {path!r}: in an image a name that begins with `.wh.` says that something was removed",
                code="changes-name",
                hint="give the file another name, or remove it in the same RUN",
            )
        return path

    def _check_place(self, path: str) -> None:
        if path in self._types:
            _malformed(f"{path!r} comes twice")
        if path and self._types.get(parent_of(path)) is not EntryType.DIRECTORY:
            _malformed(f"{path!r} stands in no directory")
        self._metadata += len(path)
        if self._metadata > self._limits.max_metadata:
            self._too_large("names and attributes")

    def _xattrs(self, count: int, path: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for _ in range(count):
            name_length, value_length = XATTR.unpack(self._take(XATTR.size))
            if not 0 < name_length <= 255 or value_length > self._limits.max_xattr:
                _malformed(f"an attribute of {path!r} is larger than Linux allows")
            name = decode(self._take(name_length))
            if "\0" in name or name in found:
                _malformed(f"an attribute of {path!r} has an impossible name")
            found[name] = self._take(value_length)
            self._metadata += name_length + value_length
        for name in found:
            if name in (_OVERLAY + "redirect", _OVERLAY + "metacopy"):
                raise UntrustedDataError(
                    f"{path!r} was changed in a way ({name}) that needs the layers below to make sense",
                    code="changes-unsupported",
                    hint="the guest's kernel must mount overlays with redirect_dir=off,metacopy=off",
                )
        return found

    def _pass_content(self, path: str, kind: int, size: int) -> None:
        if kind != RecordType.FILE:
            _malformed(f"{path!r} has content and is no file")
        self._count_content(size)
        self._skip(size)
        self._skip(-self._at % ALIGNMENT)

    def _count_content(self, size: int) -> None:
        self._content += size
        if self._content > self._limits.max_bytes:
            self._too_large("bytes")

    def _extents(self, path: str, size: int) -> tuple[Extent, ...]:
        """Where on the scratch disk a file is. A guest that lies about it gets something else that it wrote there."""
        self._count_content(size)
        (count,) = EXTENT_COUNT.unpack(self._take(EXTENT_COUNT.size))
        if count > MAX_EXTENTS:
            _malformed(f"{path!r} is in too many pieces")
        found: list[Extent] = []
        for offset, length in EXTENT.iter_unpack(self._take(count * EXTENT.size)):
            if not length or (offset != ZEROS and offset + length > self._scratch_size):
                _malformed(f"{path!r} is where the disk is not")
            found.append((HOLE if offset == ZEROS else offset, length))
        if sum(length for _, length in found) != size:
            _malformed(f"the pieces of {path!r} are not as long as it")
        self._metadata += count * EXTENT.size
        return tuple(found)

    def _too_large(self, what: str) -> NoReturn:
        raise UntrustedDataError(
            f"the step changed more than a layer may hold: too many {what}",
            code="changes-too-large",
            hint="split the step, or raise MBUILD_MAX_LAYER_BYTES",
        )

    def _take(self, size: int) -> bytes:
        start = self._at - self._data_at
        if start + size > len(self._data):
            self._fetch(size)
            start = 0
        self._at += size
        return self._data[start : start + size]

    def _fetch(self, size: int) -> None:
        """Read on from where we are, at least `size` bytes."""
        data = self._read_at(self._at, max(size, _AHEAD))
        while len(data) < size and (more := self._read_at(self._at + len(data), size - len(data))):
            data += more
        if len(data) < size:
            _malformed("it ends too early")
        self._data, self._data_at = data, self._at

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > self._end:
            _malformed("it ends too early")


def _kept(xattrs: dict[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    return tuple(sorted((name, value) for name, value in xattrs.items() if _keeps(name)))


def _keeps(name: str) -> bool:
    if name.startswith("user."):
        return not name.startswith("user.overlay.") and len(encode(name)) > len("user.")
    return name == "security.capability"
