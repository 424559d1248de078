"""Reads a layer's tar as a stream: ustar, GNU long names, PAX; OCI's file names become what they mean.

Nothing is sought and nothing is held beside one chunk and the tree of entries. What an archive may say and we
do not take (climbing paths, links to nothing, sparse files, unknown types) is refused by the entry's name;
what Docker ignores (PAX global headers, aufs's `.wh..wh.` files, content of entries that have none) is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NoReturn

from engine.layers.compression import CHUNK, Source
from engine.layers.entry import Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.names import META_PREFIX, OPAQUE_MARKER, WHITEOUT_PREFIX, join
from engine.layers.tarheader import (
    BLOCK,
    MAX_ID,
    ZERO_BLOCK,
    Header,
    apply_pax,
    parse_header,
    parse_pax,
    refuse,
    refuse_sparse,
    xattrs_of,
)
from engine.layers.tree import Tree, cleaned
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

_KINDS = {
    b"0": EntryType.FILE,
    b"7": EntryType.FILE,  # "contiguous", which no one honours
    b"1": EntryType.HARDLINK,
    b"2": EntryType.SYMLINK,
    b"3": EntryType.CHARACTER,
    b"4": EntryType.BLOCK,
    b"5": EntryType.DIRECTORY,
    b"6": EntryType.FIFO,
}
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
_EXTENSIONS = frozenset({_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK})


class TarStream:
    """The uncompressed bytes of a layer, read forward, hashed and counted on the way."""

    def __init__(self, source: Source, *, hashed: bool = True) -> None:
        self._source = source
        self._hash = hashlib.sha256() if hashed else None
        self._data = b""
        self._at = 0
        self._before = 0

    @property
    def offset(self) -> int:
        """Bytes taken so far."""
        return self._before + self._at

    @property
    def diff_id(self) -> str:
        """`sha256:...` of all that was fetched: of the whole stream once it is drained."""
        if self._hash is None:
            raise ValueError("the stream was not to be hashed")
        return "sha256:" + self._hash.hexdigest()

    def _fetch(self) -> bool:
        self._before += len(self._data)
        self._at = 0
        self._data = self._source.read(CHUNK)
        if self._hash is not None:
            self._hash.update(self._data)
        return bool(self._data)

    def piece(self, size: int) -> bytes:
        """1 to `size` bytes; none at the end of the stream."""
        at = self._at
        if at >= len(self._data):
            if not self._fetch():
                return b""
            at = 0
        found = self._data[at : at + size]
        self._at = at + len(found)
        return found

    def exactly(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end of the stream."""
        found = self.piece(size)
        while len(found) < size and (more := self.piece(size - len(found))):
            found += more
        return found

    def skip(self, size: int) -> bool:
        """Pass over bytes; False when the stream ends before."""
        while size:
            got = len(self.piece(min(size, CHUNK)))
            if not got:
                return False
            size -= got
        return True


class Content:
    """The content of one file while the reader stands at it."""

    def __init__(self, stream: TarStream, size: int, name: str) -> None:
        self._stream = stream
        self._name = name
        self.left = size

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes (all that is left when negative), none at the end.

        Raises UntrustedDataError (`layer-truncated`).
        """
        if size < 0:
            return b"".join(self.chunks())
        if not self.left or not size:
            return b""
        found = self._stream.piece(min(size, self.left))
        if not found:
            truncated(self._name)
        self.left -= len(found)
        return found

    def chunks(self) -> Iterator[bytes]:
        """What is left, in pieces as large as they come, up to 1 MiB."""
        while piece := self.read(CHUNK):
            yield piece


def truncated(name: str) -> NoReturn:
    """Raise UntrustedDataError (`layer-truncated`)."""
    refuse("layer-truncated", name, "the layer ends in the middle of it", "pull the image again")


@dataclass(slots=True)
class Member:
    """An entry as it goes by."""

    entry: Entry
    offset: int
    """Of its content in the uncompressed tar."""
    content: Content


@dataclass(slots=True)
class _Extension:
    """What extension headers say about the entry after them."""

    records: dict[str, bytes]
    name: str = ""
    link: str = ""


class LayerReader:
    """Iterates over a layer's members; afterwards `tree` holds what they add up to, `stream` the diff id and size.

    Iterating to the end drains the stream. Each member's content must be read before the next one is asked for
    (what is not is passed over). Raises UntrustedDataError with codes `layer-...`.
    """

    def __init__(self, source: Source, limits: LayerLimits) -> None:
        self.stream = TarStream(source)
        self.tree = Tree(limits)
        self._limits = limits
        self._count = 0

    def __iter__(self) -> Iterator[Member]:
        stream = self.stream
        while (found := self._next_entry()) is not None:
            header, extension = found
            member = self._member(header, extension)
            if member is not None:
                yield member
                if not stream.skip(member.content.left):
                    truncated(header.name)
            if not stream.skip(_padding(header.size)):
                truncated(header.name)
        while stream.piece(CHUNK):  # what stands behind the end counts for the diff id
            pass

    def _next_entry(self) -> tuple[Header, _Extension] | None:
        extension = _Extension({})
        unfinished = ""
        while (header := self._next()) is not None:
            if header.kind not in _EXTENSIONS:
                return header, extension
            self._extend(extension, header)
            if header.kind != _PAX_GLOBAL:
                unfinished = header.name
        if unfinished:
            truncated(unfinished)
        return None

    def _next(self) -> Header | None:
        stream = self.stream
        where = stream.offset
        block = stream.exactly(BLOCK)
        if not block or block == ZERO_BLOCK:
            return None
        if len(block) < BLOCK:
            raise UntrustedDataError(
                f"the layer ends in the middle of a header, at byte {where}",
                code="layer-truncated",
                hint="it was damaged on its way: pull the image again",
            )
        self._count += 1
        if self._count > self._limits.max_entries:
            raise UntrustedDataError(
                f"the layer has more than {self._limits.max_entries} entries",
                code="layer-too-large",
                hint="an image like that is damaged or hostile: do not use it",
            )
        return parse_header(block, where)

    def _extend(self, extension: _Extension, header: Header) -> None:
        kind, limits = header.kind, self._limits
        room = limits.max_pax if kind in (_PAX, _PAX_GLOBAL) else limits.max_path + 1
        if header.size > room:
            refuse("layer-header", header.name, f"an extension header of {header.size} bytes, more than {room}")
        data = self.stream.exactly(header.size)
        if len(data) < header.size or not self.stream.skip(_padding(header.size)):
            truncated(header.name)
        if kind == _PAX:
            extension.records = parse_pax(data, limits)
        elif kind == _PAX_GLOBAL:
            parse_pax(data, limits)
        else:
            text = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            if kind == _LONG_NAME:
                extension.name = text
            else:
                extension.link = text

    def _member(self, header: Header, extension: _Extension) -> Member | None:
        if extension.records:
            apply_pax(header, extension.records)
        header.name = extension.name or header.name
        header.link = extension.link or header.link
        kind = _KINDS.get(header.kind)
        if kind is None:
            _refuse_kind(header)
        if kind is not EntryType.FILE:
            header.size = 0  # Go, GNU and Python agree: whatever the field says, nothing follows
        content = Content(self.stream, header.size, header.name)
        entry = self._entry(header, kind, extension)
        if entry is None:
            if not self.stream.skip(header.size):
                truncated(header.name)
            return None
        offset = self.stream.offset
        return Member(self.tree.admit(entry, offset), offset, content)

    def _entry(self, header: Header, kind: EntryType, extension: _Extension) -> Entry | None:
        limits, raw = self._limits, header.name
        path = cleaned(raw, "path", limits)
        if WHITEOUT_PREFIX in path:
            head, _, name = path.rpartition("/")
            if META_PREFIX in path and any(part.startswith(META_PREFIX) for part in path.split("/")):
                if name == OPAQUE_MARKER:
                    self.tree.mark_opaque(head)
                return None
            if name.startswith(WHITEOUT_PREFIX):
                return _whiteout(head, name, header)
        if not path and kind is not EntryType.DIRECTORY:
            refuse("layer-path", raw, f"the root of the image cannot be a {kind.value}")
        if header.uid > MAX_ID or header.gid > MAX_ID:
            refuse("layer-header", raw, f"the owner {header.uid}:{header.gid} is out of range")
        if kind is EntryType.CHARACTER and header.device == (0, 0):
            return Entry(path, EntryType.WHITEOUT, 0, mtime=header.mtime)  # what overlayfs takes it for
        xattrs = xattrs_of(extension.records, raw, limits) if extension.records else ()
        return Entry(
            path,
            kind,
            0o777 if kind is EntryType.SYMLINK else header.mode,
            header.uid,
            header.gid,
            header.size,
            header.mtime,
            self._link(header, kind),
            _device(header, kind),
            xattrs,
        )

    def _link(self, header: Header, kind: EntryType) -> str:
        if kind is EntryType.HARDLINK:
            return cleaned(header.link, "target", self._limits, header.name)
        if kind is not EntryType.SYMLINK:
            return ""
        link = header.link
        if not link or len(link.encode("utf-8", "surrogateescape")) >= self._limits.max_path:
            refuse("layer-path", header.name, "its target is empty or too long")
        return link


def _padding(size: int) -> int:
    return -size % BLOCK


def _whiteout(head: str, name: str, header: Header) -> Entry:
    hidden = name.removeprefix(WHITEOUT_PREFIX)
    if hidden in ("", ".", ".."):
        refuse("layer-path", header.name, "a whiteout of nothing")
    # What it hides is all that it says; content that some writer gave it is passed over.
    return Entry(join(head, hidden), EntryType.WHITEOUT, 0, mtime=header.mtime)


def _device(header: Header, kind: EntryType) -> tuple[int, int]:
    if kind is not EntryType.CHARACTER and kind is not EntryType.BLOCK:
        return (0, 0)
    major, minor = header.device
    if major >= 1 << 12 or minor >= 1 << 20:
        refuse("layer-header", header.name, f"there is no device {major}:{minor}")
    return header.device


def _refuse_kind(header: Header) -> NoReturn:
    if header.kind == _SPARSE:
        refuse_sparse(header.name)
    refuse("layer-entry-type", header.name, f"its type {header.kind!r} has no place in an image layer")
