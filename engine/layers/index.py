"""What is in a layer and where: enough to look into it, and to read files out of it, without its tar at hand.

As bytes: the line `mbuild layer index N`, then zlib-compressed JSON: columns, a row an entry, sorted by path.
Columns load ten times as fast as records, and an entry is made only when someone asks for it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from engine.layers.entry import Entry, EntryType
from engine.layers.tree import Contents
from machinefile.errors import StoreError

VERSION = 1
"""Raised with every change of what the bytes hold: an index of another version is built anew."""
_FAMILY = b"mbuild layer index "
_MAGIC = _FAMILY + b"%d\n" % VERSION
_MOST = 4 << 30
"""Bytes of an index, decompressed: more than the largest layer that is taken leads to."""
_LETTERS = {
    EntryType.FILE: "f",
    EntryType.DIRECTORY: "d",
    EntryType.SYMLINK: "l",
    EntryType.HARDLINK: "h",
    EntryType.CHARACTER: "c",
    EntryType.BLOCK: "b",
    EntryType.FIFO: "p",
    EntryType.WHITEOUT: "w",
}
_TYPES = {letter: kind for kind, letter in _LETTERS.items()}
_COLUMNS = ("paths", "types", "modes", "uids", "gids", "sizes", "mtimes", "offsets")


class KeptFiles:
    """The small files that names are looked up in, kept while a layer goes by: etc/passwd and etc/group, and a few
    others of those names, which etc/passwd may be a symlink to."""

    max_size = 1 << 20
    max_others = 16

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._others = 0

    def wants(self, entry: Entry) -> bool:
        """Whether a file's content is to be given to `add`."""
        path = entry.path
        if entry.size > self.max_size or not path.endswith(("passwd", "group")):
            return False
        if path in ("etc/passwd", "etc/group"):
            return True
        return path.endswith(("/passwd", "/group")) and self._others < self.max_others

    def add(self, path: str, content: bytes) -> None:
        """Keep a file's content; the last one for a path stays."""
        self._others += path not in ("etc/passwd", "etc/group")
        self.files[path] = content


def is_of_another_version(data: bytes) -> bool:
    """Whether bytes are an index of a form that another release writes."""
    return data.startswith(_FAMILY) and not data.startswith(_MAGIC)


class LayerIndex:
    """The entries of one layer. Immutable; made by `of` or `from_bytes`."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self.diff_id: str = data["diff_id"]
        """`sha256:...` of the uncompressed tar."""
        self.size: int = data["size"]
        """Bytes of the uncompressed tar."""
        self.paths: list[str] = data["paths"]
        """Of all entries, sorted by their bytes. Not to be changed."""
        self._types: str = data["types"]
        self.implied: dict[str, bool] = dict(data["implied"])
        """Directories that entries stand in or that are marked opaque, without an entry of their own; with each whether
        it is opaque. The root is among them unless it has an entry."""
        self._opaque = frozenset(data["opaque"])
        self._names: dict[str, list[str]] | None = None

    @cached_property
    def _rows(self) -> dict[str, int]:
        # Of what was just written most is not looked up any more.
        return dict(zip(self.paths, range(len(self.paths)), strict=True))

    @classmethod
    def of(cls, contents: Contents, *, diff_id: str, size: int, kept: KeptFiles) -> LayerIndex:
        """The index of a layer that was read or written."""
        entries = [entry for entry, _ in contents.entries]
        alive = {entry.path for entry in entries if entry.type is EntryType.FILE}
        return cls(
            {
                "diff_id": diff_id,
                "size": size,
                "paths": [entry.path for entry in entries],
                "types": "".join([_LETTERS[entry.type] for entry in entries]),
                "modes": [entry.mode for entry in entries],
                "uids": [entry.uid for entry in entries],
                "gids": [entry.gid for entry in entries],
                "sizes": [entry.size for entry in entries],
                "mtimes": [entry.mtime for entry in entries],
                "offsets": [offset for _, offset in contents.entries],
                "links": {str(row): entry.link for row, entry in enumerate(entries) if entry.link},
                "devices": {str(row): entry.device for row, entry in enumerate(entries) if entry.device != (0, 0)},
                "xattrs": {
                    str(row): [[name, value.decode("latin-1")] for name, value in entry.xattrs]
                    for row, entry in enumerate(entries)
                    if entry.xattrs
                },
                "opaque": [row for row, entry in enumerate(entries) if entry.opaque],
                "implied": list(contents.implied),
                "kept": {
                    path: content.decode("latin-1") for path, content in sorted(kept.files.items()) if path in alive
                },
            }
        )

    def to_bytes(self) -> bytes:
        """The index for keeping. Equal layers give equal bytes (with the same zlib)."""
        # A column at a time: the text of them all would be larger than the index itself.
        packer = zlib.compressobj(1)
        packed = [_MAGIC, packer.compress(b"{")]
        for number, (name, column) in enumerate(sorted(self._data.items())):
            text = json.dumps(column, separators=(",", ":"), sort_keys=True).encode("ascii")
            packed.append(packer.compress(b'%s"%s":' % (b"," if number else b"", name.encode("ascii")) + text))
        return b"".join((*packed, packer.compress(b"}"), packer.flush()))

    @classmethod
    def from_bytes(cls, data: bytes) -> LayerIndex:
        """An index that was kept. Raises StoreError (`index-unusable`): damaged, or of another version."""
        try:
            if not data.startswith(_MAGIC):
                raise ValueError("another version")
            index = cls(json.loads(_inflated(data[len(_MAGIC) :])))
            if any(len(index._data[column]) != len(index._rows) for column in _COLUMNS):
                raise ValueError("columns of different lengths")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, zlib.error) as error:
            raise StoreError(
                f"a layer's index cannot be read ({error})",
                code="index-unusable",
                hint="it is built again when the layer is needed",
            ) from error
        return index

    def __len__(self) -> int:
        return len(self.paths)

    def __contains__(self, path: object) -> bool:
        return path in self._rows

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, sorted by path."""
        return map(self._entry, range(len(self.paths)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerIndex) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.diff_id)

    def type_of(self, path: str) -> EntryType | None:
        """What an entry is; None where there is none. Faster than `get`."""
        row = self._rows.get(path)
        return None if row is None else _TYPES[self._types[row]]

    def get(self, path: str) -> Entry | None:
        """The entry of a path, as the layer has it: a hard link is a HARDLINK."""
        row = self._rows.get(path)
        return None if row is None else self._entry(row)

    def file(self, path: str) -> Entry | None:
        """The FILE that a path holds, hard links followed; None when it holds none."""
        entry = self.get(path)
        if entry is not None and entry.type is EntryType.HARDLINK:
            entry = self.get(entry.link)
        return entry if entry is not None and entry.type is EntryType.FILE else None

    def offset(self, path: str) -> int:
        """Where the content of a FILE begins in the uncompressed tar. Raises KeyError for a path without entry."""
        offset: int = self._data["offsets"][self._rows[path]]
        return offset

    def kept(self, path: str) -> bytes | None:
        """The content of etc/passwd and etc/group (and files of those names), if the layer has them."""
        content = self._data["kept"].get(path)
        return None if content is None else content.encode("latin-1")

    def replaces_below(self, path: str) -> bool:
        """Whether nothing that the layers below have inside this directory is seen through this layer."""
        row = self._rows.get(path)
        if row is None:
            return self.implied.get(path, False)
        return self._types[row] != "d" or row in self._opaque

    def names_in(self, directory: str) -> list[str]:
        """Names of what this layer has in a directory, whiteouts among them. Not to be changed."""
        if self._names is None:
            names: dict[str, list[str]] = {}
            for path in (*self.paths, *self.implied):
                if path:
                    head, _, name = path.rpartition("/")
                    names.setdefault(head, []).append(name)
            self._names = names
        return self._names.get(directory, [])

    def _entry(self, row: int) -> Entry:
        data = self._data
        letter = self._types[row]
        key = str(row)
        plain = letter == "f" or letter == "d"
        xattrs = data["xattrs"].get(key)
        return Entry(
            self.paths[row],
            _TYPES[letter],
            data["modes"][row],
            data["uids"][row],
            data["gids"][row],
            data["sizes"][row],
            data["mtimes"][row],
            "" if plain else data["links"].get(key, ""),
            (0, 0) if plain else tuple(data["devices"].get(key, (0, 0))),
            () if xattrs is None else tuple((name, value.encode("latin-1")) for name, value in xattrs),
            row in self._opaque,
        )


def _inflated(data: bytes) -> bytes:
    """Raises ValueError for what is cut, or grows beyond all measure; zlib.error for what is no zlib stream."""
    stream = zlib.decompressobj()
    plain = stream.decompress(data, _MOST)
    if not stream.eof:
        raise ValueError("it is cut, or too large")
    return plain
