"""Cache mounts in the store: folders that outlive the steps that use them, each an ext4 disk.

    mounts/<identity>/about.json     what the cache was asked for as, for listings
    mounts/<identity>/<N>/disk       an instance of it; none yet while it is empty. Replaced whole, never written to
    mounts/<identity>/<N>/used       flocked while a step uses it: shared, or exclusively (locked, private)
    mounts/<identity>/<N>/renewed    flocked while a new disk takes the place of the old one

A step gets a copy (a reflink where the file system can), which becomes the new disk when the step is over, unless
another step has renewed it meanwhile: then the two are merged. Instance 0 is the one of shared and locked caches;
private ones take the first that nobody uses. Locks go with the process that holds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache.files import publish, store_errors, sync_directory, write_atomically
from cache.store import Store
from engine.vm.disks import clone, scratch_image
from machinefile.errors import InterruptedBuildError, UsageError
from machinefile.sizes import parse_size
from machinefile.steps import FromContext, FromStep, Mount, Sharing
from machinefile.values import dataclass

_DEFAULT_BYTES = 32 << 30
_LEAST_BYTES = 16 << 20
_INSTANCES = 1000
_POLL = 0.05
"""Seconds between two tries for a lock."""
_STRICTEST = (Sharing.LOCKED, Sharing.PRIVATE, Sharing.SHARED)

Merge = Callable[[Path, Path], None]
"""Brings what the first disk has and the second lacks, or has older, into the second."""
Seed = Callable[["CacheRequest", Path], bool]
"""Writes a disk that an empty cache begins with, if there is one elsewhere; whole where it says so."""


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """A cache that a step wants. Equal ids of equal origin and owner are one cache, in whatever stage."""

    id: str
    sharing: Sharing
    origin: str = ""
    """What stands for the files it begins with; empty for none."""
    owner: tuple[int | None, int | None, int | None] = (None, None, None)
    """Mode, uid and gid of its root, where they are given: as in BuildKit another owner is another cache."""

    @property
    def identity(self) -> str:
        """The name of its folder."""
        return hashlib.sha256(json.dumps([self.id, self.origin, self.owner]).encode()).hexdigest()


def plain_request(mount: Mount) -> CacheRequest | None:
    """The cache that a mount asks for; None for one that begins with the files of a step or a context."""
    if isinstance(mount.origin, (FromStep, FromContext)):
        return None
    below = mount.source.strip("/")
    owner = (mount.mode, mount.uid, mount.gid)
    return CacheRequest(mount.id, mount.sharing, f"/{below}" if below else "", owner)


class BorrowedCache:
    """A cache while a step uses it."""

    def __init__(self, folder: Path, disk: Path, started_with: int | None) -> None:
        self._folder = folder
        self.disk = disk
        """The step's own copy."""
        self._started_with = started_with
        """A descriptor of the disk that was copied; while it is open no other file can get that one's number."""

    @property
    def is_new(self) -> bool:
        """Whether nothing has ever been in the cache."""
        return self._started_with is None

    def keep(self, merge: Merge, cancelled: threading.Event) -> None:
        """Make the step's copy the cache. Raises StoreError, InterruptedBuildError, and what `merge` raises."""
        with _until_locked(self._folder / "renewed", fcntl.LOCK_EX, cancelled):
            new = self.disk
            if self._was_renewed():
                new = self.disk.with_name("merged")
                with store_errors("copying a cache"):
                    clone(self._folder / "disk", new)
                merge(self.disk, new)
            with store_errors("keeping a cache"):
                _flush(new)
                publish(new, self._folder / "disk")

    def _was_renewed(self) -> bool:
        try:
            now = (self._folder / "disk").stat()
        except FileNotFoundError:
            return False
        if self._started_with is None:
            return True
        then = os.fstat(self._started_with)
        return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)


class CacheMounts:
    """The caches of a store."""

    def __init__(self, store: Store, seed: Seed | None = None) -> None:
        self._store = store
        self._seed = seed
        self._root = store.root / "mounts"

    @contextmanager
    def borrow(
        self, wanted: Sequence[CacheRequest], cancelled: threading.Event, waiting: Callable[[str], None]
    ) -> Iterator[dict[str, BorrowedCache]]:
        """Hold the caches for a step; by identity. `waiting` is called once with the id of one that is in use.

        One that is empty begins with what `seed` has of it. Raises InterruptedBuildError when `cancelled` is set while
        it waits, StoreError, UsageError (`usage`).
        """
        requests: dict[str, CacheRequest] = {}
        for request in wanted:
            other = requests.get(request.identity, request)
            requests[request.identity] = min(request, other, key=lambda one: _STRICTEST.index(one.sharing))
        with ExitStack() as stack:
            # In one order for all, so that no two steps wait for one another.
            folders = {
                identity: stack.enter_context(self._held(requests[identity], cancelled, waiting))
                for identity in sorted(requests)
            }
            for identity, folder in folders.items():
                self._fill(requests[identity], folder, cancelled)
            yield {identity: self._copied(folder, stack) for identity, folder in folders.items()}

    def disk(self, request: CacheRequest) -> Path:
        """Where the disk of a cache is, or would be, that no step has for itself alone."""
        return self._root / request.identity / "0" / "disk"

    def _fill(self, request: CacheRequest, folder: Path, cancelled: threading.Event) -> None:
        """Let an empty cache begin with what there is of it elsewhere."""
        if self._seed is None or (folder / "disk").exists():
            return
        with _until_locked(folder / "renewed", fcntl.LOCK_EX, cancelled):
            if (folder / "disk").exists():
                return  # another step has brought it
            mine = self._store.folder()
            try:
                if self._seed(request, mine / "disk"):
                    with store_errors("keeping a cache"):
                        _flush(mine / "disk")
                        publish(mine / "disk", folder / "disk")
            finally:
                shutil.rmtree(mine, ignore_errors=True)

    def _copied(self, folder: Path, stack: ExitStack) -> BorrowedCache:
        mine = self._store.folder()
        disk = mine / "disk"
        stack.callback(shutil.rmtree, mine, ignore_errors=True)
        with store_errors("copying a cache"):
            try:
                descriptor = os.open(folder / "disk", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                clone(scratch_image(self._store.vm_folder / "scratch", cache_bytes()), disk)
                return BorrowedCache(folder, disk, None)
            stack.callback(os.close, descriptor)
            clone(Path(f"/proc/self/fd/{descriptor}"), disk)
            return BorrowedCache(folder, disk, descriptor)

    @contextmanager
    def _held(
        self, request: CacheRequest, cancelled: threading.Event, waiting: Callable[[str], None]
    ) -> Iterator[Path]:
        home = self._home(request)
        kind = fcntl.LOCK_SH if request.sharing is Sharing.SHARED else fcntl.LOCK_EX
        numbers = range(_INSTANCES if request.sharing is Sharing.PRIVATE else 1)
        waited = False
        while (held := _first_free(home, numbers, kind)) is None:
            if not waited:
                waiting(request.id)
            waited = True
            _pause(cancelled)
        folder, descriptor = held
        try:
            yield folder
        finally:
            os.close(descriptor)

    def _home(self, request: CacheRequest) -> Path:
        home = self._root / request.identity
        with store_errors("making a cache"):
            home.mkdir(parents=True, exist_ok=True)
            about = home / "about.json"
            if not about.exists():
                mode, uid, gid = request.owner
                told = {"id": request.id, "origin": request.origin, "mode": mode, "uid": uid, "gid": gid}
                write_atomically(about, json.dumps(told).encode(), self._store.temporary)
        return home


def cache_bytes() -> int:
    """How large the disk of a new cache is: MBUILD_CACHE_MOUNT_BYTES, or 32 GiB; it takes up what is in it.

    Raises UsageError (`usage`).
    """
    text = os.environ.get("MBUILD_CACHE_MOUNT_BYTES", "")
    try:
        size = parse_size(text) if text else _DEFAULT_BYTES
    except ValueError:
        size = 0
    if size < _LEAST_BYTES:
        raise UsageError(
            f"MBUILD_CACHE_MOUNT_BYTES is {text!r}: it is to be a size of 16M at least",
            code="usage",
            hint="for example MBUILD_CACHE_MOUNT_BYTES=8G",
        )
    return size


def _first_free(home: Path, numbers: Iterable[int], kind: int) -> tuple[Path, int] | None:
    """The first instance that can be locked, and the lock's descriptor."""
    for number in numbers:
        folder = home / str(number)
        with store_errors("making a cache"):
            folder.mkdir(exist_ok=True)
        descriptor = _try_lock(folder / "used", kind)
        if descriptor is not None:
            return folder, descriptor
    return None


def _try_lock(path: Path, kind: int) -> int | None:
    with store_errors("locking a cache"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextmanager
def _until_locked(path: Path, kind: int, cancelled: threading.Event) -> Iterator[None]:
    while (descriptor := _try_lock(path, kind)) is None:
        _pause(cancelled)
    try:
        yield
    finally:
        os.close(descriptor)


def _pause(cancelled: threading.Event) -> None:
    # flock has no deadline of its own, and a signal would not wake a thread out of it.
    if cancelled.wait(_POLL):
        raise InterruptedBuildError


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o644)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)
