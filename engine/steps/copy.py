"""COPY and ADD of what is local: which entries they make, without a VM and without touching the host's files.

Follows what BuildKit's file operations do: sources are matched and their links followed inside their root; a
directory gives its contents; the destination's links are followed inside the image; directories that have to
be made are 0755 and belong to the copy's owner; a directory that is there keeps what it is when the copy's
top lands on it, and takes the source's mode and owner further down.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from engine.layers.entry import Entry, EntryType
from engine.layers.times import NORMAL, Times
from engine.steps.draft import Copied, Draft, conflict
from engine.steps.mode import apply_mode
from engine.steps.tree import LinkLoopError, Tree, resolve
from machinefile.errors import MachinefileError
from machinefile.globs import has_wildcards, matches
from machinefile.ignore import IgnoreRules
from machinefile.steps import Copy
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.steps.unpack import ArchiveTree


@dataclass(frozen=True, slots=True)
class Matched:
    """A source of a copy: as it was named, and the path of the file or directory it leads to."""

    name: str
    """Its last component is the name that a file gets in a directory; with --parents all of it is kept."""
    path: str
    above: str = ""
    """With --parents: the part of the pattern before `/./`, which is not kept."""


def match_sources(operation: Copy, source: Tree, *, where: str) -> tuple[Matched, ...]:
    """The paths that the copy's patterns name, in order.

    Raises MachinefileError (`source-missing`) for a plain path that leads nowhere; a pattern with wildcards may
    match nothing. `where` says in messages what was searched.
    """
    found: list[Matched] = []
    for pattern in operation.sources:
        above, _, kept = pattern.rpartition("/./")
        whole = _join(above, kept)
        for name in _expand(source, whole) if has_wildcards(whole) else [whole]:
            path = follow(source, name)
            if source.entry(path) is None:
                raise MachinefileError.one(
                    f"{name!r} is not in {where}",
                    code="source-missing",
                    hint="check the path, and that .dockerignore does not leave it out"
                    if "context" in where
                    else "check the path; it is looked up in that stage's file system",
                )
            depth = len(above.split("/")) if above else 0
            found.append(Matched("/".join(name.split("/")[depth:]), path, above))
    return tuple(found)


def copied_entries(
    operation: Copy,
    source: Tree,
    sources: Iterable[Matched],
    target: Tree,
    owner: tuple[int, int] | None,
    archives: Mapping[str, ArchiveTree] = MappingProxyType({}),
    times: Times = NORMAL,
) -> list[Copied]:
    """Everything that the copy writes onto the target, directories it has to make included, in sorted order.

    `owner` is the --chown in numbers, None to keep the source's; `archives` are those of the sources, by their
    paths, that are to be unpacked; `times` are those of all that is written. Raises MachinefileError:
    `copy-conflict` where a file would replace a directory or the other way round, `link-loop`.
    """
    draft = Draft(target, owner, times.now())
    excluded = IgnoreRules.parse("\n".join(operation.exclude)) if operation.exclude else None
    copier = _Copier(operation, source, draft, excluded, times)
    try:
        for number, matched in enumerate(sources):
            copier.group = number
            if matched.path in archives:
                from engine.steps.unpack import unpack  # with all that reads tars

                unpack(archives[matched.path], operation.destination, draft, keep_owner=not operation.owner)
            else:
                copier.copy_top(matched)
        for file in operation.files:
            copier.write(file.name, file.content.encode("utf-8", "surrogateescape"))
    except LinkLoopError as error:
        raise MachinefileError.one(f"too many symbolic links on the way to {str(error)!r}", code="link-loop") from error
    return draft.finished()


class _Copier:
    def __init__(self, operation: Copy, source: Tree, draft: Draft, excluded: IgnoreRules | None, times: Times) -> None:
        self._operation = operation
        self._source = source
        self._draft = draft
        self._excluded = excluded
        self._times = times
        self.group = 0

    def copy_top(self, matched: Matched) -> None:
        entry = self._source.entry(matched.path)
        if entry is None:
            raise AssertionError(f"{matched.path} was matched and is gone")
        is_directory = entry.type is EntryType.DIRECTORY
        if self._operation.parents:
            destination = self._below_parents(matched, is_directory)
        else:
            destination = self._destination(matched.name, is_directory)
        self._copy(matched.path, "", destination, over=False)

    def write(self, name: str, content: bytes) -> None:
        destination = self._destination(name, False)
        self._check_file(destination)
        uid, gid = self._draft.owner or (0, 0)
        mode = apply_mode(self._operation.mode, 0o644, directory=False)
        entry = Entry(destination, EntryType.FILE, mode, uid, gid, len(content), self._draft.now)
        self._draft.put(Copied(entry, content=content))

    def _destination(self, name: str, is_directory: bool) -> str:
        draft = self._draft
        path = draft.resolve(self._operation.destination)
        if is_directory:
            draft.make_directories(path)
            return path
        if self._operation.into_directory:
            draft.make_directories(path)
        existing = draft.entry(path)
        if not path or (existing is not None and existing.type is EntryType.DIRECTORY):
            return _join(path, posixpath.basename(name))
        draft.make_directories(path.rpartition("/")[0])
        return path

    def _below_parents(self, matched: Matched, is_directory: bool) -> str:
        """The destination with the source's own path below it; directories on the way are made like the source's."""
        path = self._draft.resolve(self._operation.destination)
        self._draft.make_directories(path)
        parts = [part for part in matched.name.split("/") if part]
        on_the_way = parts if is_directory else parts[:-1]
        above = matched.above
        for part in on_the_way:
            above = _join(above, part)
            path = self._draft.resolve(_join(path, part))
            there = self._source.entry(follow(self._source, above))
            if there is not None and self._draft.entry(path) is None:
                self._draft.put(Copied(self._dressed(there, path)))
        return path if is_directory else _join(path, parts[-1])

    def _copy(self, path: str, below: str, destination: str, *, over: bool) -> None:
        """`below` is the path in what is copied, where something may be excluded."""
        entry = self._source.entry(path)
        if entry is None or (below and self._is_excluded(below)):
            return
        if entry.type is EntryType.DIRECTORY:
            existing = self._draft.entry(destination)
            if existing is not None and existing.type is not EntryType.DIRECTORY:
                raise conflict(f"the directory {path!r} cannot replace /{destination}, which is not a directory")
            if (existing is None or over) and destination:
                self._draft.put(Copied(self._dressed(entry, destination)))
            for name in self._source.children(path):
                inside = _join(below, name) if self._excluded is not None else name
                self._copy(_join(path, name), inside, _join(destination, name), over=True)
            return
        self._check_file(destination)
        if destination == entry.path:
            destination = entry.path  # once in memory, not twice
        source = path if entry.type is EntryType.FILE else None
        self._draft.put(Copied(self._dressed(entry, destination), source=source, group=self.group))

    def _dressed(self, entry: Entry, destination: str) -> Entry:
        uid, gid = self._draft.owner or (entry.uid, entry.gid)
        mode = entry.mode
        if self._operation.mode and entry.type is not EntryType.SYMLINK:
            mode = apply_mode(self._operation.mode, mode, directory=entry.type is EntryType.DIRECTORY)
        # Not opaque, and written out: see Times.of.
        return Entry(
            destination,
            entry.type,
            mode,
            uid,
            gid,
            entry.size,
            self._times.at(entry.mtime),
            entry.link,
            entry.device,
            entry.xattrs,
        )

    def _check_file(self, destination: str) -> None:
        existing = self._draft.entry(destination)
        if existing is not None and existing.type is EntryType.DIRECTORY:
            raise conflict(f"a file cannot replace the directory /{destination}")

    def _is_excluded(self, below: str) -> bool:
        return self._excluded is not None and self._excluded.ignored(below)


def _expand(source: Tree, pattern: str) -> list[str]:
    """Go's filepath.Match over the tree: a wildcard never crosses a slash, so only as deep as the pattern goes."""
    found = [""]
    parts = pattern.split("/")
    for depth, part in enumerate(parts):
        deeper: list[str] = []
        for directory in found:
            real = follow(source, directory) if not has_wildcards("/".join(parts[:depth])) else directory
            names: Iterable[str]
            if has_wildcards(part):
                names = [name for name in _children(source, real) if matches(part, name)]
            else:
                names = [part] if source.entry(_join(real, part)) is not None else []
            deeper += [_join(directory, name) for name in names]
        found = deeper
    return found


def _children(source: Tree, path: str) -> Iterable[str]:
    entry = source.entry(path)
    return source.children(path) if entry is not None and entry.type is EntryType.DIRECTORY else ()


def follow(source: Tree, path: str) -> str:
    """The path with its links followed inside the tree. Raises MachinefileError (`link-loop`)."""
    try:
        return resolve(source.entry, path)
    except LinkLoopError as error:
        raise MachinefileError.one(f"too many symbolic links on the way to {path!r}", code="link-loop") from error


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name
