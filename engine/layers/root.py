"""The file system that layers make together, looked into without putting it together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

from engine.layers.entry import Entry, EntryType
from engine.layers.index import LayerIndex
from engine.layers.names import ancestors_of, encode, join, parent_of
from engine.layers.users import Account, UserDatabase
from machinefile.errors import StepError
from machinefile.values import dataclass

_MAX_HOPS = 40
"""As many symbolic links as Linux follows in one path."""


@dataclass(frozen=True, slots=True)
class Located:
    """An entry of the merged file system and the layer that it comes from."""

    entry: Entry
    """As that layer has it; never a WHITEOUT."""
    layer: int
    """Position among the layers, 0 the lowest; -1 for the root of an image without layers."""


class RootView:
    """The merged root of layers, lowest first. Every path is looked up from the top layer down, and remembered.

    Paths are as Entry has them: clean, relative, the empty string for the root.
    """

    def __init__(self, indexes: Sequence[LayerIndex]) -> None:
        self.indexes = tuple(indexes)
        self._found: dict[str, Located | None] = {}

    def lookup(self, path: str) -> Located | None:
        """What is at a path, symlinks not followed anywhere; None for nothing."""
        try:
            return self._found[path]
        except KeyError:
            found = self._found[path] = self._look(path)
            return found

    def _look(self, path: str) -> Located | None:
        above = ancestors_of(path)
        implied = -1
        for number in range(len(self.indexes) - 1, -1, -1):
            index = self.indexes[number]
            kind = index.type_of(path)
            if kind is not None:
                entry = index.get(path)
                if kind is EntryType.WHITEOUT or entry is None:
                    break
                if implied < 0 or kind is EntryType.DIRECTORY:
                    return Located(entry, number)
                break  # a layer above stands in this directory: what was no directory is gone
            if implied < 0 and path in index.implied:
                implied = number
            if any(index.replaces_below(step) for step in above):
                break
        if implied >= 0 or not path:
            return Located(default_directory(path), implied)
        return None

    def file(self, located: Located) -> Located:
        """The FILE that a HARDLINK is the same as, in its own layer; everything else as it is."""
        if located.entry.type is not EntryType.HARDLINK:
            return located
        target = self.indexes[located.layer].file(located.entry.path)
        return located if target is None else Located(target, located.layer)

    def resolve(self, path: str, follow_last: bool = True) -> str:
        """The path with the symlinks in it followed, as inside the root: `..` and absolute links stay in it.

        `path` may be absolute and unclean. What does not exist stays as it is written. Raises StepError
        (`symlink-loop`) after 40 links.
        """
        done = ""
        pending = path.split("/")[::-1]
        hops = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = parent_of(done)
                continue
            step = join(done, part)
            located = self.lookup(step)
            last = not any(pending)
            if located is None or located.entry.type is not EntryType.SYMLINK or (last and not follow_last):
                done = step
                continue
            hops += 1
            if hops > _MAX_HOPS:
                raise StepError(
                    f"{path!r} leads through more than {_MAX_HOPS} symbolic links in the image",
                    code="symlink-loop",
                    hint="some of them point at one another: remove them in a RUN step",
                )
            if located.entry.link.startswith("/"):
                done = ""
            pending.extend(located.entry.link.split("/")[::-1])
        return done

    def children(self, directory: str) -> tuple[str, ...]:
        """The names in a directory, sorted by their bytes; none where there is no directory (symlinks not followed)."""
        located = self.lookup(directory)
        if located is None or located.entry.type is not EntryType.DIRECTORY:
            return ()
        above = (*ancestors_of(directory), directory)
        seen: set[str] = set()
        names: list[str] = []
        for index in reversed(self.indexes):
            here = index.names_in(directory)
            fresh = [name for name in here if name not in seen]
            seen.update(fresh)
            names.extend(name for name in fresh if index.type_of(join(directory, name)) is not EntryType.WHITEOUT)
            if any(index.replaces_below(step) for step in above):
                break
        return tuple(sorted(names, key=encode))

    def walk(self, directory: str = "") -> Iterator[Located]:
        """A directory and everything below it, parents before what is in them, names in the order of their bytes."""
        pending = [directory]
        while pending:
            path = pending.pop()
            located = self.lookup(path)
            if located is None:
                continue
            yield located
            if located.entry.type is EntryType.DIRECTORY:
                pending.extend(join(path, name) for name in reversed(self.children(path)))

    @cached_property
    def users(self) -> UserDatabase:
        """The image's users and groups."""
        return UserDatabase.parse(self._kept("etc/passwd"), self._kept("etc/group"))

    def _kept(self, path: str) -> bytes:
        located = self.lookup(self.resolve(path))
        if located is None:
            return b""
        located = self.file(located)
        return self.indexes[located.layer].kept(located.entry.path) or b"" if located.layer >= 0 else b""

    def identity(self, spec: str) -> Account:
        """Who `USER spec` is; see UserDatabase.account. Raises StepError (`user-unknown`)."""
        return self.users.account(spec)

    def implied(self, index: LayerIndex) -> dict[str, Entry]:
        """For a layer to be laid on this root: what its implied directories are here, or would be made as."""
        found: dict[str, Entry] = {}
        for path in index.implied:
            located = self.lookup(path)
            known = located is not None and located.entry.type is EntryType.DIRECTORY
            found[path] = located.entry if located is not None and known else default_directory(path)
        return found


def default_directory(path: str) -> Entry:
    """A directory that no layer describes, as unpackers make it."""
    return Entry(path, EntryType.DIRECTORY, 0o755)
