"""The record of each step: what its key is made of. See cache/keys.py for what is left out, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from cache.keys import Long, Record, Value
from cache.spans import span
from engine.layers.entry import Entry, EntryType
from engine.remote.remotes import record_fields
from engine.steps.copy import Matched, follow, match_sources
from engine.steps.tree import Tree
from machinefile.clocks import Clock
from machinefile.errors import MachinefileError
from machinefile.ignore import IgnoreRules
from machinefile.platform import Platform
from machinefile.steps import (
    Copy,
    From,
    FromContext,
    FromStep,
    InlineFile,
    Metadata,
    Mount,
    Origin,
    RemoteSource,
    Run,
    Step,
    Workdir,
)

_FILE = EntryType.FILE
_NAMES = {kind: kind.value for kind in EntryType}
"""Asked of 100,000 files, an enumeration's members take a tenth of the listing."""
FILES_OF_MOUNT = 3
"""Where the record of a mount has its files."""


class HashedTree(Tree, Protocol):
    """A tree whose files can be hashed."""

    def digest(self, path: str) -> str:
        """The sha256 of a file's content, in hex."""
        ...

    def hash_all(self, paths: Sequence[str]) -> None:
        """Hash several files side by side, so that `digest` has them at hand."""
        ...

    def inode(self, path: str) -> tuple[int, int] | None:
        """What is the same for two names of one file; None for a file with a single name."""
        ...


class Listing(Long):
    """Files of a context, as a record has them."""

    hashed: tuple[str, ...]
    """The paths of those that were read."""

    def __new__(cls, listed: Iterable[Value], hashed: tuple[str, ...]) -> Listing:
        """`listed` is the value."""
        made = super().__new__(cls, listed)
        made.hashed = hashed
        return made


def files_read(step: Step, record: Record) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of contexts, and the files of each that were hashed for a record of the step."""
    fields = dict(record.fields)
    match step.operation:
        case Copy(origin=FromContext(name)):
            found = fields["files"]
            for source in found if isinstance(found, tuple) else ():
                if isinstance(source, tuple) and isinstance(source[1], Listing):
                    yield name, source[1].hashed
        case Run(mounts=mounts):
            found = fields["mounts"]
            for mount, value in zip(mounts, found if isinstance(found, tuple) else (), strict=True):
                files = value[FILES_OF_MOUNT] if isinstance(value, tuple) else None
                if isinstance(mount.origin, FromContext) and isinstance(files, Listing):
                    yield mount.origin.name, files.hashed


def record_of(
    step: Step,
    platform: Platform,
    identity: Callable[[str], str],
    contexts: Mapping[str, HashedTree],
) -> Record:
    """The record of a step.

    `identity` gives what stands for another step in it: its definition key for this step's definition key, a
    digest of its layers for the content key.
    """
    operation = step.operation
    common: tuple[tuple[str, Value], ...] = (
        ("platform", str(platform)),
        ("parent", identity(step.parent) if step.parent is not None else None),
        ("inputs", tuple(identity(needed) for needed in step.inputs)),
        # Only where it is so: all other keys stay as they are.
        *((("timestamps", "keep"),) if step.keep_times and step.makes_layer else ()),
    )
    match operation:
        case From():
            return Record("from", (("platform", str(platform)), ("digest", operation.digest)))
        case Run():
            return Record("run", common + _run(operation, step.inputs, contexts))
        case Copy():
            return Record("copy", common + _copy(operation, step.inputs, contexts))
        case RemoteSource():
            return Record("remote", common + _remote(operation))
        case Workdir():
            return Record("workdir", (*common, ("path", operation.path), ("user", operation.user)))
        case Metadata():
            return Record("metadata", (*common, ("name", operation.name), ("arguments", operation.arguments)))


def _run(operation: Run, inputs: tuple[str, ...], contexts: Mapping[str, HashedTree]) -> tuple[tuple[str, Value], ...]:
    return (
        ("argv", operation.argv),
        ("environment", operation.environment),
        ("user", operation.user),
        ("working_dir", operation.working_dir),
        ("network", operation.network.value),
        ("mounts", tuple(_mount(mount, inputs, contexts) for mount in operation.mounts)),
        ("files", _inline(operation.files)),
        # Only where there are some: keys from before there could be any stay as they were.
        *((("hosts", operation.hosts),) if operation.hosts else ()),
        *((("privileged", True),) if operation.privileged else ()),
        *((("clock", operation.clock.value),) if operation.clock is not Clock.REAL else ()),
        *((("secret_versions", versions),) if (versions := _versions(operation)) else ()),
    )


def _versions(operation: Run) -> tuple[Value, ...]:
    """What stands for the versions of secrets, by id."""
    found = {mount.id: mount.version for mount in operation.mounts if mount.version}
    return tuple(sorted(found.items()))


def _mount(mount: Mount, inputs: tuple[str, ...], contexts: Mapping[str, HashedTree]) -> Value:
    files: Value = None
    if isinstance(mount.origin, FromContext):
        context = contexts[mount.origin.name]
        path = follow(context, mount.source.strip("/"))
        if context.entry(path) is None:
            raise MachinefileError.one(
                f"{mount.source!r} is not in the build context",
                code="source-missing",
                hint="check the mount's source=, and that .dockerignore does not leave it out",
            )
        listed = _listing(context, path, None)
        files = Listing((_root_mode(context, path), *listed), listed.hashed)
    return (
        mount.type.value,
        mount.target,
        _origin(mount.origin, inputs),
        files,
        mount.source,
        mount.read_only,
        mount.id,
        mount.sharing.value,
        mount.required,
        mount.environment,
        (mount.mode, mount.uid, mount.gid, mount.size),
    )


def _root_mode(context: HashedTree, path: str) -> int:
    """The mode of what is mounted, which a copy would leave behind."""
    top = context.entry(path)
    return top.mode if top is not None else 0


def _copy(
    operation: Copy, inputs: tuple[str, ...], contexts: Mapping[str, HashedTree]
) -> tuple[tuple[str, Value], ...]:
    files: Value = None
    if isinstance(operation.origin, FromContext):
        files = _copied_files(operation, contexts[operation.origin.name])
    return (
        ("origin", _origin(operation.origin, inputs)),
        # Of files from the context only what they are counts, not the pattern that found them.
        ("sources", operation.sources if files is None else None),
        ("files", files),
        ("inline", _inline(operation.files)),
        ("destination", operation.destination),
        ("into_directory", operation.into_directory),
        ("owner", operation.owner),
        ("mode", operation.mode),
        ("link", operation.link),
        ("parents", operation.parents),
        ("exclude", operation.exclude),
        ("unpack", operation.unpack),
    )


def _copied_files(operation: Copy, context: HashedTree) -> Value:
    excluded = IgnoreRules.parse("\n".join(operation.exclude)) if operation.exclude else None
    name_of_origin = isinstance(operation.origin, FromContext) and operation.origin.name
    where = f"the context {name_of_origin!r}" if name_of_origin else "the build context"
    return tuple(
        (
            matched.name if operation.parents else matched.name.rpartition("/")[2],
            _listing(context, matched.path, excluded),
            # Only where they count: keys of other copies stay as they were.
            *((_modes_on_the_way(context, matched),) if operation.parents else ()),
        )
        for matched in match_sources(operation, context, where=where)
    )


def _modes_on_the_way(context: HashedTree, matched: Matched) -> Value:
    """The modes of the directories that --parents makes like the source's, outermost first."""
    found: list[int] = []
    above = matched.above
    for part in filter(None, matched.name.split("/")):
        above = _join(above, part)
        entry = context.entry(follow(context, above))
        if entry is not None and entry.type is EntryType.DIRECTORY:
            found.append(entry.mode)
    return tuple(found)


def _listing(context: HashedTree, top: str, excluded: IgnoreRules | None) -> Listing:
    """Everything at and below a path: relative path, type, mode, and the content's digest or the link's target; for
    one more name of a file, its first name."""
    with span("hash", "context") as hashing:
        found = list(_entries(context, top, excluded))
        hashed = tuple(_path(top, below, entry) for below, entry, first in found if _reads(below, entry, first))
        hashing.note(files=len(hashed))
        context.hash_all(hashed)
        digests = map(context.digest, hashed)
        listed: list[Value] = []
        for below, entry, first in found:
            kind = entry.type
            about: Value = entry.link
            if _reads(below, entry, first):
                about = next(digests)
            elif kind is _FILE:
                about = ("same file as", first)
            # A directory that is copied gives its contents: its own mode stays behind.
            stays = kind is EntryType.DIRECTORY and not below
            listed.append((below, _NAMES[kind], 0 if stays else entry.mode, about))
        return Listing(listed, hashed)


def _reads(below: str, entry: Entry, first: str) -> bool:
    """Whether it is a file, and not one more name of one."""
    return entry.type is _FILE and first == below


def _path(top: str, below: str, entry: Entry) -> str:
    """Of an entry in its context, which may know it by another path inside; the text that is there already, if it is
    the same: there may be very many."""
    path = _join(top, below)
    return entry.path if entry.path == path else path


def _entries(context: HashedTree, top: str, excluded: IgnoreRules | None) -> Iterator[tuple[str, Entry, str]]:
    """Everything at and below a path, by its relative path, and the first such path of the same file."""
    todo = [""]
    names: dict[tuple[int, int], str] = {}
    while todo:
        below = todo.pop()
        path = _join(top, below)
        entry = context.entry(path)
        if entry is None or (below and excluded is not None and excluded.ignored(below)):
            continue
        inode = context.inode(path)
        yield below, entry, below if inode is None else names.setdefault(inode, below)
        if entry.type is EntryType.DIRECTORY:
            todo += [_join(below, name) for name in reversed(context.children(path))]


def _join(above: str, name: str) -> str:
    return f"{above}/{name}" if above and name else above or name


def _remote(operation: RemoteSource) -> tuple[tuple[str, Value], ...]:
    return (
        *record_fields(operation),
        ("destination", operation.destination),
        ("into_directory", operation.into_directory),
        ("owner", operation.owner),
        ("mode", operation.mode),
        ("link", operation.link),
        ("unpack", operation.unpack),
        ("exclude", operation.exclude),
    )


def _origin(origin: Origin, inputs: tuple[str, ...]) -> Value:
    """A stage counts by its place among the step's inputs: what it holds is said there, its name means nothing."""
    if isinstance(origin, FromStep):
        return ("step", inputs.index(origin.step))
    # A context counts by its files alone.
    return ("context",) if isinstance(origin, FromContext) else ("nothing",)


def _inline(files: tuple[InlineFile, ...]) -> Value:
    return tuple((file.name, file.content) for file in files)
