"""RUN --mount prepared on the host: what each mount shows, found before the microVM starts, and caches kept after."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING

from cache.results import Layer
from cache.store import Store
from engine.context import ContextFiles
from engine.layers.entry import Entry, EntryType
from engine.layers.names import WHITEOUT_PREFIX
from engine.layers.tarwrite import Item
from engine.layers.times import NORMAL, Times
from engine.layerstore import LayerStore
from engine.plan import content_identity
from engine.secrets import Secrets
from engine.steps.copy import follow
from engine.vm.execution import Sandbox
from engine.vm.mounts import BindMount, CacheMount, GuestMount, SecretFile, TmpfsMount
from machinefile.errors import MachinefileError, StepError
from machinefile.imageconfig import Pairs
from machinefile.steps import FromContext, FromStep, Mount, MountType, Run
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.cachemounts import BorrowedCache, CacheRequest, Seed

Layers = tuple[Layer, ...]
_TOP = "mounted"
"""What stands in a context's layer: the source itself, with the name left behind."""


@dataclass(frozen=True, slots=True)
class MountedFiles:
    """What a mount shows: a path in layers."""

    layers: Layers
    path: str
    """Clean, no link on the way; the root is the empty text."""
    is_file: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """The mounts of a step, for as long as they are held."""

    mounts: tuple[GuestMount, ...] = ()
    environment: Pairs = ()
    """Secrets that the process sees as variables."""
    caches: tuple[BorrowedCache, ...] = ()

    def keep_caches(self, sandbox: Sandbox, operation: Run, cancelled: threading.Event) -> None:
        """Make what the step wrote to its caches theirs. Raises StoreError, HostError, InterruptedBuildError."""
        for cache in self.caches:
            cache.keep(lambda newer, into: sandbox.merge(newer, into, operation.shape, cancelled), cancelled)


@dataclass(slots=True)
class MountMaker:
    """Where the mounts of a build's steps come from."""

    store: Store
    layers: LayerStore
    layers_of: Callable[[str], Layers]
    """All layers of a step's file system."""
    contexts: Mapping[str, ContextFiles]
    secrets: Secrets
    tell: Callable[[str], None]
    """Says in a line what is waited for."""
    seed: Seed | None = None
    """Where an empty cache may have something to begin with."""
    borrowed: dict[str, CacheRequest] = field(default_factory=dict)
    """The caches that steps have had, by identity."""
    _of_contexts: dict[tuple[str, str, bool], MountedFiles] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def prepared(self, operation: Run, below: Layers, cancelled: threading.Event) -> Iterator[Prepared]:
        """The mounts of a RUN on top of `below`.

        Raises MachinefileError (`source-missing`, ...), StepError, StoreError, InterruptedBuildError.
        """
        if not operation.mounts:
            yield Prepared()
            return
        from engine.cachemounts import CacheMounts  # with the disks of microVMs, which a cached build has no use for

        wanted = {mount: self._cache_request(mount) for mount in operation.mounts if mount.type is MountType.CACHE}
        caches = CacheMounts(self.store, self.seed)
        self.borrowed.update({request.identity: request for request, _ in wanted.values()})
        with caches.borrow([request for request, _ in wanted.values()], cancelled, self._waiting) as held:
            mounts: list[GuestMount] = []
            for mount in operation.mounts:
                if mount.type is MountType.SSH:
                    continue  # a socket, not files: see engine/sshagent.py
                if mount.type is MountType.CACHE:
                    request, seed = wanted[mount]
                    mounts.append(self._cache(mount, held[request.identity], seed))
                else:
                    mounts += self._mount(mount, below)
            writable = {mount.disk for mount in mounts if isinstance(mount, CacheMount) and not mount.read_only}
            kept = tuple(cache for cache in held.values() if cache.disk in writable or cache.is_new)
            yield Prepared(tuple(mounts), self._variables(operation), kept)

    def _waiting(self, cache_id: str) -> None:
        self.tell(f"waiting for the cache {cache_id}, which another step uses")

    def _mount(self, mount: Mount, below: Layers) -> list[GuestMount]:
        match mount.type:
            case MountType.BIND:
                files = self.files_of(mount)
                disks = self.layers.disks(files.layers)
                return [BindMount(mount.target, disks, f"/{files.path}", files.is_file, not mount.read_only)]
            case MountType.TMPFS:
                return [TmpfsMount(mount.target, mount.size, self._mode_below(mount.target, below), mount.read_only)]
            case MountType.SECRET:
                value = self.secrets.get(mount.id)
                if value is None or not mount.target:
                    return []
                mode = 0o400 if mount.mode is None else mount.mode
                return [SecretFile(mount.target, value, mode, mount.uid or 0, mount.gid or 0)]
            case other:
                raise AssertionError(f"{other} is not mounted here")

    def _cache(self, mount: Mount, cache: BorrowedCache, seed: MountedFiles | None) -> CacheMount:
        made = CacheMount(mount.target, cache.disk, mount.read_only, cache.is_new)
        if not cache.is_new:
            return made
        if seed is not None:
            made = replace(made, seed=self.layers.disks(seed.layers), seed_source=f"/{seed.path}")
        return replace(made, mode=mount.mode, uid=mount.uid, gid=mount.gid)

    def _cache_request(self, mount: Mount) -> tuple[CacheRequest, MountedFiles | None]:
        from engine.cachemounts import CacheRequest, plain_request

        plain = plain_request(mount)
        if plain is not None:
            return plain, None
        owner = (mount.mode, mount.uid, mount.gid)
        files = self.files_of(mount)
        if files.is_file:
            raise MachinefileError.one(
                f"a cache can begin with the files of a folder alone, and {mount.source} is none",
                code="mount-source",
                hint="name a folder with source=",
            )
        return CacheRequest(mount.id, mount.sharing, f"{content_identity(files.layers)}/{files.path}", owner), files

    def files_of(self, mount: Mount) -> MountedFiles:
        """What `from` and `source` of a mount name. Raises MachinefileError (`source-missing`)."""
        match mount.origin:
            case FromStep(step):
                return self._in_layers(self.layers_of(step), mount.source)
            case FromContext(name):
                # A cache is called after what it begins with, which the times of files are no part of.
                times = NORMAL if mount.type is MountType.CACHE else self.layers.times
                with self._lock:
                    key = (name, mount.source, times.keep)
                    if key not in self._of_contexts:
                        self._of_contexts[key] = self._in_context(self.contexts[name], mount.source, times)
                    return self._of_contexts[key]
            case _:
                raise AssertionError("a bind mount has its files from somewhere")

    def _in_layers(self, layers: Layers, source: str) -> MountedFiles:
        view = self.layers.view(layers)
        path = view.resolve(source)
        located = view.lookup(path)
        if located is None:
            raise _missing(source, "the files that the mount is from")
        return MountedFiles(layers, path, located.entry.type is not EntryType.DIRECTORY)

    def _in_context(self, context: ContextFiles, source: str, times: Times) -> MountedFiles:
        path = follow(context, source.strip("/"))
        top = context.entry(path)
        if top is None:
            raise _missing(source, "the build context")
        layer = self.layers.write(_items(context, top, times), guarded=False)
        layers = () if layer is None else (layer,)
        return MountedFiles(layers, _TOP, top.type is not EntryType.DIRECTORY)

    def _mode_below(self, target: str, below: Layers) -> int | None:
        """The mode of the folder that a tmpfs covers, which runc gives it too."""
        view = self.layers.view(below)
        located = view.lookup(view.resolve(target))
        return located.entry.mode if located is not None and located.entry.type is EntryType.DIRECTORY else None

    def _variables(self, operation: Run) -> Pairs:
        found: dict[str, str] = {}
        for mount in operation.mounts:
            value = self.secrets.get(mount.id) if mount.type is MountType.SECRET and mount.environment else None
            if value is None:
                continue
            if b"\0" in value:
                raise StepError(
                    f"the secret {mount.id!r} cannot be the variable {mount.environment}: it has a zero byte",
                    code="secret-unfit",
                    hint="mount it as a file with target=",
                )
            found[mount.environment] = value.decode("utf-8", "surrogateescape")
        return tuple(found.items())


def _items(context: ContextFiles, top: Entry, times: Times) -> Iterator[Item]:
    """A source of a context and all below it, as the entries of a layer, owned by root."""
    todo = [top.path]
    names: dict[tuple[int, int], str] = {}
    while todo:
        path = todo.pop()
        entry = context.entry(path)
        if entry is None:
            continue
        if path.rpartition("/")[2].startswith(WHITEOUT_PREFIX):
            raise MachinefileError.one(
                f"no layer can hold a file named {path!r}: there that name means a file that was removed",
                code="copy-whiteout",
                hint="rename it, or leave it out with .dockerignore",
            )
        place = _TOP + path[len(top.path) :] if top.path else f"{_TOP}/{path}".rstrip("/")
        placed = times.of(replace(entry, path=place, uid=0, gid=0, opaque=False))
        if entry.type is EntryType.DIRECTORY:
            todo += [f"{path}/{name}".lstrip("/") for name in context.children(path)]
        inode = context.inode(path)
        first = place if inode is None else names.setdefault(inode, place)
        if first != place:
            yield Item(Entry(place, EntryType.HARDLINK, entry.mode, link=first))
        elif entry.type is EntryType.FILE:
            yield Item(placed, partial(context.open, path))
        else:
            yield Item(placed)


def _missing(source: str, where: str) -> MachinefileError:
    return MachinefileError.one(
        f"{source!r} is not in {where}",
        code="source-missing",
        hint="check the mount's source=, and that .dockerignore does not leave it out",
    )
