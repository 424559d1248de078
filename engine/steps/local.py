"""COPY and ADD carried out: the layer written by the host, from the context, other layers, or the file itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from io import BytesIO

from cache.results import Layer
from engine.context import ContextFiles
from engine.layers.compression import Source
from engine.layers.content import Contents, LayerFiles
from engine.layers.entry import Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.layers.names import WHITEOUT_PREFIX
from engine.layers.root import Located, RootView
from engine.layers.tarwrite import Item
from engine.layers.times import Times
from engine.layerstore import LayerStore
from engine.steps.copy import Matched, copied_entries, match_sources
from engine.steps.draft import Copied
from engine.steps.layertree import LayerTree
from engine.steps.tree import Tree
from engine.steps.unpack import ArchiveTree, read_archive
from machinefile.errors import MachinefileError
from machinefile.steps import Copy

Layers = tuple[Layer, ...]
Opener = Callable[[str], Source]
"""Opens the content of a path."""


class _Nothing:
    """A tree without anything: the source of a copy that brings its own files, the target of one with --link."""

    def entry(self, path: str) -> Entry | None:
        return None

    def children(self, path: str) -> Sequence[str]:
        return ()


def copy_from_context(operation: Copy, context: ContextFiles, below: Layers, layers: LayerStore) -> Layer | None:
    """COPY and ADD of files of the build context: they belong to root unless --chown says otherwise; ADD unpacks
    archives, whose files keep their owners.

    Raises MachinefileError, HostError (`content-changed`).
    """
    return copy_files(operation, context, match_sources(operation, context, where="the build context"), below, layers)


def copy_files(
    operation: Copy, context: ContextFiles, sources: Sequence[Matched], below: Layers, layers: LayerStore
) -> Layer | None:
    """The same, of sources that were found already."""
    view = layers.view(below)
    archives = _archives(sources, context, layers.limits) if operation.unpack else {}
    owner = view.users.owner(operation.owner) if operation.owner else (0, 0)
    copied = copied_entries(operation, context, sources, _target(operation, view), owner, archives, layers.times)
    trees = {archive.number: archive.tree for archive in archives.values()}

    def inode(path: str, archive: int | None) -> Hashable:
        return context.inode(path) if archive is None else _inode(trees[archive], path)

    copied = _linked(copied, inode)
    with ExitStack() as stack:
        opened: dict[int, Opener] = {}
        for archive in archives.values():
            wanted = [one for one in copied if one.archive == archive.number and one.source is not None]
            located = {one.source: archive.tree.located(one.source) for one in wanted if one.source is not None}
            files = LayerFiles([archive.index], [archive.open], layers.limits)
            contents = stack.enter_context(files.gather(located.values(), layers.folder()))
            opened[archive.number] = partial(_open_located, contents, located)
        opened[-1] = context.open
        items = [_item(one, opened[-1 if one.archive is None else one.archive], layers.times) for one in copied]
        copied = []  # there may be very many
        return layers.write(items)


def copy_from_layers(operation: Copy, origin: Layers, below: Layers, layers: LayerStore, name: str) -> Layer | None:
    """COPY --from another step's file system: owners, attributes and hard links are kept. Raises as above."""
    source = LayerTree(layers.view(origin))
    copied = _plan(operation, source, below, layers, f"the files of {name}")
    copied = _linked(copied, lambda path, archive: _inode(source, path))
    wanted = [source.located(one.source) for one in copied if one.source is not None]
    with layers.files(origin).gather(wanted, layers.folder()) as contents:
        items = [_item(one, lambda path: contents.open(source.located(path)), layers.times) for one in copied]
        return layers.write(items)


def copy_inline(operation: Copy, below: Layers, layers: LayerStore) -> Layer | None:
    """COPY of heredocs alone."""

    def nowhere(path: str) -> Source:
        raise AssertionError(f"{path} is in no source")

    copied = _plan(operation, _Nothing(), below, layers, "the Machinefile")
    return layers.write([_item(one, nowhere, layers.times) for one in copied])


class _Opening:
    """Opens the content of a path: as `partial` would, in a quarter of its memory."""

    __slots__ = ("_opener", "_path")

    def __init__(self, opener: Opener, path: str) -> None:
        self._opener = opener
        self._path = path

    def __call__(self) -> Source:
        return self._opener(self._path)


def _plan(operation: Copy, source: Tree, below: Layers, layers: LayerStore, where: str) -> list[Copied]:
    view = layers.view(below)
    owner = view.users.owner(operation.owner) if operation.owner else None
    matched = match_sources(operation, source, where=where)
    return copied_entries(operation, source, matched, _target(operation, view), owner, times=layers.times)


def _open_located(contents: Contents, located: Mapping[str, Located], path: str) -> Source:
    return contents.open(located[path])


def _target(operation: Copy, view: RootView) -> Tree:
    """With --link a copy knows nothing of the image it is laid on: it follows no link there and meets no file."""
    return _Nothing() if operation.link else LayerTree(view)


def _archives(sources: Iterable[Matched], context: ContextFiles, limits: LayerLimits) -> dict[str, ArchiveTree]:
    found: dict[str, ArchiveTree] = {}
    for matched in sources:
        entry = context.entry(matched.path)
        if entry is not None and entry.type is EntryType.FILE and matched.path not in found:
            archive = read_archive(len(found), matched.name, partial(context.open, matched.path), limits)
            if archive is not None:
                found[matched.path] = archive
    return found


def _inode(tree: LayerTree, path: str) -> Hashable:
    """What is the same for two names of one file."""
    located = tree.located(path)
    return located.layer, located.entry.link if located.entry.type is EntryType.HARDLINK else located.entry.path


def _linked(copied: list[Copied], inode: Callable[[str, int | None], Hashable]) -> list[Copied]:
    """What is one file in a source is one file in the copy; `inode` is asked with a path and an archive's number."""
    first: dict[Hashable, str] = {}
    result = []
    for one in copied:
        number = inode(one.source, one.archive) if one.source is not None else None
        if number is not None:
            holder = first.setdefault((one.group, one.archive, number), one.entry.path)
            if holder != one.entry.path:
                link = Entry(
                    one.entry.path, EntryType.HARDLINK, one.entry.mode, one.entry.uid, one.entry.gid, link=holder
                )
                one = Copied(link)
        result.append(one)
    return result


def _item(copied: Copied, opener: Opener, times: Times) -> Item:
    entry = times.of(copied.entry)
    name = entry.path.rpartition("/")[2]
    if name.startswith(WHITEOUT_PREFIX):
        raise MachinefileError.one(
            f"no image can hold a file named {name!r}: in layers that name means a file that was removed",
            code="copy-whiteout",
            hint="rename it, or leave it out with .dockerignore",
        )
    if entry.type is not EntryType.FILE:
        return Item(entry)
    if copied.source is not None:
        return Item(entry, _Opening(opener, copied.source))
    return Item(entry, partial(BytesIO, copied.content or b""))
