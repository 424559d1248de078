"""What the entries of one layer add up to: each path once, every parent a directory, every hard link with its file.

Both readers of what we do not trust, tars and change streams, bring their entries here.
"""

from __future__ import annotations

from dataclasses import replace

from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.names import BadPathError, ancestors_of, clean_path, encode, join, parent_of
from engine.layers.tarheader import refuse
from machinefile.values import dataclass

_MAX_HOPS = 40
# As looked up through the class these cost a tenth of the whole reading.
_FILE, _DIRECTORY, _SYMLINK = EntryType.FILE, EntryType.DIRECTORY, EntryType.SYMLINK
_HARDLINK, _WHITEOUT = EntryType.HARDLINK, EntryType.WHITEOUT


@dataclass(frozen=True, slots=True)
class Contents:
    """A layer's entries, final."""

    entries: tuple[tuple[Entry, int], ...]
    """Sorted by path; with each the offset of its content in the uncompressed tar, 0 where it has none."""
    implied: tuple[tuple[str, bool], ...]
    """Sorted. Directories that entries stand in, or that are marked opaque, but that have no entry of their own:
    they keep the metadata of the layer below. With each whether it is opaque. The root is among them."""


class Tree:
    """Collects entries in the order in which they are read. The last one for a path wins, as when unpacking."""

    def __init__(self, limits: LayerLimits) -> None:
        self._limits = limits
        self._entries: dict[str, Entry] = {}
        self._offsets: dict[str, int] = {}
        self._whiteouts: dict[str, Entry] = {}
        self._opaque: set[str] = set()
        self._held: dict[str, str] = {}
        """Files that hard links point at, with one such link."""
        self._used: set[str] = {""}
        """Directories that something stands in."""
        self._resolved: dict[str, str] = {"": ""}
        """Directories as entries name them, and where they are."""
        self._metadata = 0

    def admit(self, entry: Entry, offset: int = 0) -> Entry:
        """Take an entry (clean path) and give it back as it counts: with symlinks among its parents followed, inside
        the layer; a hard link to something that is no file as a copy of that.

        Docker too follows symlinks that the same layer made before, inside the root: layers glued together of
        packages hold `lib -> usr/lib` and then `lib/x`. Raises UntrustedDataError: `layer-parent`, `layer-hardlink`,
        `layer-replaced`, `layer-path`, `layer-too-large`.
        """
        path = self._place(entry.path)
        if path is not entry.path:
            entry = replace(entry, path=path)
        self._count(entry)
        if entry.type is _WHITEOUT:
            self._whiteouts[path] = entry
            return entry
        if entry.type is _HARDLINK:
            entry = self._link(entry)
        if path in self._entries or (entry.type is not _DIRECTORY and path in self._used):
            self._check_replacing(entry)
        self._entries[path] = entry
        if entry.type is _FILE:
            self._offsets[path] = offset
        return entry

    def mark_opaque(self, path: str) -> None:
        """The directory hides what is below it; it may have an entry before, later, or never."""
        self._count(Entry(path, _DIRECTORY))
        self._opaque.add(self._directory(path))

    def _count(self, entry: Entry) -> None:
        attributes = sum(len(name) + len(value) for name, value in entry.xattrs) if entry.xattrs else 0
        self._grow(len(entry.path) + len(entry.link) + attributes, entry.path)

    def _grow(self, size: int, path: str) -> None:
        self._metadata += size
        if self._metadata > self._limits.max_metadata:
            refuse("layer-too-large", path, "names and attributes of the layer are larger than we take")

    def _place(self, path: str) -> str:
        head, _, name = path.rpartition("/")
        found = self._resolved.get(head)
        if found is None:
            found = self._directory(head)
        return path if found == head else join(found, name)

    def _directory(self, path: str) -> str:
        """Where a directory that entries name really is; from now on it is one."""
        found = self._resolved.get(path)
        if found is None:
            found = self._follow(path)
            self._resolved[path] = found
            for step in (*ancestors_of(found), found):
                if step not in self._used:
                    self._used.add(step)
                    self._grow(len(step), path)
        return found

    def _follow(self, path: str) -> str:
        done, pending, hops = "", path.split("/")[::-1], 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = parent_of(done)
                continue
            step = join(done, part)
            entry = self._entries.get(step)
            if entry is None or entry.type is _DIRECTORY:
                done = step
                if len(done) > self._limits.max_path:
                    refuse("layer-path", path, "it is too long with the symbolic links in it followed")
                continue
            hops += 1
            self._grow(len(entry.link), path)  # following costs time as names cost memory: one cap for both
            if entry.type is not _SYMLINK or hops > _MAX_HOPS:
                refuse("layer-parent", path, f"something stands below {step!r}, which is a {entry.type.value}")
            if entry.link.startswith("/"):
                done = ""
            pending.extend(entry.link.split("/")[::-1])
        return done

    def _link(self, entry: Entry) -> Entry:
        link = self._place(entry.link)
        target = self._entries.get(link)
        if target is None or link == entry.path:
            refuse("layer-hardlink", entry.path, f"it is a hard link to {entry.link!r}, which does not come before it")
        if target.type is _DIRECTORY:
            refuse("layer-hardlink", entry.path, f"it is a hard link to the directory {link!r}")
        if target.type is _HARDLINK:
            link = target.link
            if link == entry.path:  # the file itself would go
                refuse("layer-hardlink", entry.path, "it is a hard link to itself")
        elif target.type is not _FILE:
            return replace(target, path=entry.path)
        self._held.setdefault(link, entry.path)
        return Entry(entry.path, _HARDLINK, target.mode, target.uid, target.gid, 0, target.mtime, link)

    def _check_replacing(self, entry: Entry) -> None:
        path = entry.path
        if entry.type is not _DIRECTORY and path in self._used:
            refuse("layer-replaced", path, f"a {entry.type.value} takes the place of a directory that has entries")
        if path in self._held:
            refuse("layer-replaced", path, f"it comes again after {self._held[path]!r} was linked to it")
        self._offsets.pop(path, None)
        if entry.type is _SYMLINK or self._entries[path].type is not entry.type:
            self._resolved = {"": ""}

    def is_current(self, path: str, offset: int) -> bool:
        """Whether the content at that offset is what the path holds so far."""
        return self._offsets.get(path) == offset

    @property
    def files(self) -> int:
        """How many files with content of their own there are so far."""
        return len(self._offsets)

    def finish(self) -> Contents:
        """Everything that was taken, put together. A whiteout beside an entry of the same path speaks of the layers
        below: the directory becomes opaque, anything else hides them anyway."""
        entries = self._entries
        for path, whiteout in self._whiteouts.items():
            found = entries.get(path)
            if found is not None:
                if found.type is _DIRECTORY:
                    self._opaque.add(path)
            elif path in self._used:
                # What unpackers make: the old one gone, a plain new directory for what follows.
                entries[path] = Entry(path, _DIRECTORY, 0o755, mtime=NORMAL_TIME, opaque=True)
            else:
                entries[path] = whiteout
        for path in self._opaque:
            found = entries.get(path)
            if found is not None:
                entries[path] = replace(found, opaque=True)
        missing = self._used.difference(path for path, entry in entries.items() if entry.type is _DIRECTORY)
        ordered = sorted(entries.values(), key=lambda entry: entry.sort_key)
        offsets = self._offsets
        return Contents(
            tuple((entry, offsets.get(entry.path, 0)) for entry in ordered),
            tuple((path, path in self._opaque) for path in sorted(missing, key=encode)),
        )


def cleaned(raw: str, what: str, limits: LayerLimits, name: str = "") -> str:
    """A path out of untrusted data, clean. Raises UntrustedDataError (`layer-path`) naming the entry."""
    if len(raw) > limits.max_path and len(encode(raw)) > limits.max_path:
        refuse("layer-path", name or raw, f"its {what} is longer than {limits.max_path} bytes")
    try:
        return clean_path(raw)
    except BadPathError as error:
        refuse("layer-path", name or raw, f"its {what} {raw[:200]!r} cannot be: {error}")
