"""Cache mounts that travel: a disk becomes a blob of what is written on it, compressed, and a blob becomes a disk.

The host never looks into the file system on a disk; only guests mount it.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from cache.carry.artifact import MOUNT_TYPE
from cache.carry.entry import CarriedMount, is_digest
from cache.carry.place import CachePlace
from cache.files import file_digest, store_errors, write_atomically
from cache.store import Store
from engine.cachemounts import CacheMounts, CacheRequest, cache_bytes, plain_request
from engine.carry.export import PackedMount
from engine.carry.spec import ALL_MOUNTS, CacheTarget
from engine.events import Note, Observer, WarningRaised
from engine.images.descriptor import Descriptor
from engine.images.download import Verifier
from engine.layers.compression import CHUNK, ZstdWriter, decompress
from engine.layers.limits import LayerLimits
from engine.machines.sparse import HEAD_BYTES, RunReader, length_said, write_runs
from engine.plan import Plan
from machinefile.errors import InterruptedBuildError, MbuildError, UntrustedDataError
from machinefile.steps import Mount, MountType, Run
from machinefile.values import dataclass

Offers = Callable[[str], Iterable[tuple[CarriedMount, CachePlace]]]
"""Gives the mounts of an identity that are elsewhere and that may be used, and where."""
_BLOCK = 4096
"""Bytes: what a disk's length must be a multiple of."""


def cache_mounts_of(plan: Plan) -> tuple[Mount, ...]:
    """Every cache mount of the steps of a plan."""
    runs = (planned.step.operation for planned in plan.steps)
    mounts = (mount for run in runs if isinstance(run, Run) for mount in run.mounts)
    return tuple(mount for mount in mounts if mount.type is MountType.CACHE)


def wanted_mounts(
    ids: Sequence[str], plan: Plan, borrowed: Iterable[CacheRequest], warn: Callable[[str], None]
) -> tuple[CacheRequest, ...]:
    """The caches of those ids that the plan's steps mount. One with `from=` counts only if a step has had it in this
    build (`borrowed`): else nobody has looked which one it is. `warn` is told of an id that no step mounts."""
    mounts = cache_mounts_of(plan)
    known = {mount.id for mount in mounts}
    for one in ids:
        if one not in known and one != ALL_MOUNTS:
            near = difflib.get_close_matches(one, known, 1)
            warn(f"no RUN mounts a cache {one!r}" + (f": did you mean {near[0]!r}?" if near else ""))
    requests = [request for mount in mounts if (request := plain_request(mount)) is not None]
    found = {request.identity: request for request in (*requests, *borrowed)}
    return tuple(one for one in found.values() if one.id in ids or ALL_MOUNTS in ids)


class MountPacker:
    """Makes blobs of the caches of a store: a context manager, whose blobs are there until it is left.

        mounts/<identity>/0/packed    which blob the disk last became; a disk that is the same is not read again

    A cache that a step changes meanwhile goes out as it was: a disk is replaced, never written to.
    """

    def __init__(self, store: Store, observer: Observer, cancelled: threading.Event) -> None:
        self._store = store
        self._observer = observer
        self._cancelled = cancelled
        self._stack = ExitStack()
        self._made: dict[str, PackedMount | None] = {}

    def __enter__(self) -> MountPacker:
        self._folder = self._store.folder()
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pack(self, request: CacheRequest) -> PackedMount | None:
        """A cache, ready to go out; None for one that is empty. Raises StoreError, InterruptedBuildError."""
        if request.identity not in self._made:
            self._made[request.identity] = self._packed(request)
        return self._made[request.identity]

    def wanted(self, plan: Plan, borrowed: Mapping[str, CacheRequest], target: CacheTarget) -> tuple[PackedMount, ...]:
        """The caches that `wanted_mounts` finds for a target and that are not empty. Raises as `pack`."""

        def warn(message: str) -> None:
            self._observer(WarningRaised(message, "cache-mount-unknown"))

        found: list[PackedMount] = []
        for request in wanted_mounts(target.mounts, plan, borrowed.values(), warn):
            made = self.pack(request)
            if made is None:
                self._observer(Note(f"the cache mount {request.id} is empty here: it is not sent"))
            else:
                found.append(made)
        return tuple(found)

    def _packed(self, request: CacheRequest) -> PackedMount | None:
        path = CacheMounts(self._store).disk(request)
        with store_errors("reading a cache"):
            try:
                disk = self._stack.enter_context(path.open("rb"))
            except FileNotFoundError:
                return None
            found = os.fstat(disk.fileno())
        marks = [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, _release()]
        blob = self._folder / request.identity
        known = _read_marks(path.with_name("packed"), marks)
        if known is None:
            known = self._write(disk, blob)
            note = json.dumps({"marks": marks, "digest": known[0], "size": known[1]}).encode()
            with store_errors("keeping which blob a cache became"):
                write_atomically(path.with_name("packed"), note, self._store.temporary)
        digest, size = known
        mount = CarriedMount(request.identity, request.id, digest, size, int(time.time()))
        return PackedMount(mount, found.st_mtime, partial(self._open, disk, blob))

    def _open(self, disk: BinaryIO, blob: Path) -> BinaryIO:
        if not blob.exists():
            self._write(disk, blob)
        with store_errors("reading a cache"):
            return blob.open("rb")

    def _write(self, disk: BinaryIO, blob: Path) -> tuple[str, int]:
        with store_errors("packing a cache"):
            half = blob.with_suffix(".half")
            with half.open("wb") as out:
                writer = ZstdWriter(out)

                def sink(data: bytes) -> None:
                    if self._cancelled.is_set():
                        raise InterruptedBuildError
                    writer.write(data)

                write_runs(disk, sink)
                writer.finish()
            made = file_digest(half), half.stat().st_size
            half.rename(blob)
        return made


def _release() -> str:
    """What decides, beside the content, which bytes a blob has."""
    import zstandard

    return ".".join(map(str, zstandard.ZSTD_VERSION))


def _read_marks(path: Path, marks: list[object]) -> tuple[str, int] | None:
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    match note:
        case {"marks": list(found), "digest": str(digest), "size": int(size)} if found == marks and is_digest(digest):
            return digest, size
    return None


@dataclass(frozen=True, slots=True)
class MountSeeds:
    """Fills caches that are empty here with what is elsewhere."""

    offers: Offers
    store: Store
    observer: Observer
    cancelled: threading.Event
    limits: LayerLimits = field(default_factory=LayerLimits.from_environment)

    def seed(self, request: CacheRequest, disk: Path) -> bool:
        """Write the disk of a cache, if there is one to be had; what cannot be had is a warning.

        Raises InterruptedBuildError.
        """
        for mount, place in self.offers(request.identity):
            self.observer(Note(f"fetching the cache mount {request.id} from {place.label}"))
            try:
                self._bring(mount, place, disk)
            except InterruptedBuildError:
                raise
            except MbuildError as error:
                disk.unlink(missing_ok=True)
                message = f"the cache mount {request.id} in {place.label} is not used: {error.message}"
                self.observer(WarningRaised(message, error.code))
                continue
            return True
        return False

    def _bring(self, mount: CarriedMount, place: CachePlace, disk: Path) -> None:
        if mount.size > self.limits.max_bytes:
            raise UntrustedDataError(f"it is larger than {self.limits.max_bytes} bytes", code="layer-too-large")
        blob = disk.with_suffix(".blob")
        try:
            with store_errors("fetching a cache"):
                with blob.open("wb") as file:
                    verifier = Verifier(
                        Descriptor(MOUNT_TYPE, mount.digest, mount.size), "cache mount", self._sink(file), self.observer
                    )
                    place.fetch(mount.digest, mount.size, verifier.feed)
                    verifier.finish()
                # Only now that it is known to be what was sent is anything read of it.
                with blob.open("rb") as packed, disk.open("wb") as out:
                    self._unpack(packed, out)
        finally:
            blob.unlink(missing_ok=True)

    def _sink(self, file: BinaryIO) -> Callable[[bytes], object]:
        def sink(data: bytes) -> None:
            if self.cancelled.is_set():
                raise InterruptedBuildError
            file.write(data)

        return sink

    def _unpack(self, packed: BinaryIO, out: BinaryIO) -> None:
        plain = decompress(packed, self.limits)
        head = b""
        while len(head) < HEAD_BYTES and (more := plain.read(HEAD_BYTES - len(head))):
            head += more
        length = length_said(head)
        if length is None or length % _BLOCK or not length:
            raise UntrustedDataError("it is no disk", code="cache-invalid")
        if length > cache_bytes():
            raise UntrustedDataError(
                f"its disk has {length} bytes, and here a cache's may have {cache_bytes()} (MBUILD_CACHE_MOUNT_BYTES)",
                code="cache-invalid",
            )
        reader = RunReader(out, length, "its disk", self.limits.max_bytes)
        reader.feed(head)
        while data := plain.read(CHUNK):
            if self.cancelled.is_set():
                raise InterruptedBuildError
            reader.feed(data)
        reader.finish()
