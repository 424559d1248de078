"""A cache in a folder: `--cache-to type=local,dest=DIR`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from cache.blobs import digest_of
from cache.carry.artifact import (
    EMPTY,
    MAX_MANIFEST_BYTES,
    manifest_of,
    pack_index,
    parse_artifact,
    unpack_index,
)
from cache.carry.durable import (
    folder_errors,
    open_regular,
    read_at_most,
    remove_leftovers,
    unusable,
    write_durably,
)
from cache.carry.index import CacheIndex
from cache.carry.layout import LAYOUT, Listing, References
from cache.carry.place import Change, Lost, Sink
from cache.carry.stream import CHUNK, check, copy_checked, damaged, missing
from cache.files import sync_directory
from cache.locks import locked
from machinefile.errors import StoreError, TransferError, UntrustedDataError

KEPT_SECONDS = 3600
"""How long a blob stays that no index needs any more: somebody may have read the index before."""

_READS = 5
"""How often `read` begins again because the folder was changed meanwhile."""
_LOST = frozenset({"cache-damaged", "cache-blob-missing"})
"""What is the matter with an index that is written anew."""
_OURS = frozenset({"blobs", "oci-layout", ".mbuild"})


class FolderCache:
    """An OCI layout whose manifest is the cache's artifact, so that other tools move it to a registry and back.

        DIR/oci-layout
        DIR/index.json               which manifest has which tag; replaced in one step, last
        DIR/blobs/sha256/HEX         the manifest, the index, layers, packs of records, cache mounts
        DIR/.mbuild/                 flocked by who publishes; files that are not whole yet

    Any number of processes may use a folder. Readers take no lock: what the new index does not need stays for an
    hour, by its time. A blob counts as there if it has the right size; its content is checked by who reads it.
    """

    def __init__(self, path: Path, tag: str = "", cancelled: threading.Event | None = None) -> None:
        """Touches nothing yet. Without a tag it is `latest`, or what alone is there without a tag."""
        self._path = path
        self._tag = tag
        self._cancelled = cancelled or threading.Event()
        self._blobs = path / "blobs" / "sha256"
        self._own = path / ".mbuild"

    @property
    def label(self) -> str:
        """What to call it to the user."""
        return f"folder {self._path}" + (f":{self._tag}" if self._tag else "")

    def read(self) -> CacheIndex:
        """What is there now.

        Raises UntrustedDataError (`cache-invalid`, `cache-version`, `cache-damaged`), TransferError
        (`cache-blob-missing`, `cache-busy`), HostError (`cache-folder`).
        """
        for _ in range(_READS):
            listed = self._listed()
            try:
                return self._index_of(listed)
            except TransferError:
                # Its blobs may be gone because another process has put a new index there.
                if self._listed() == listed:
                    raise
        raise TransferError(
            f"the {self.label} was changed again and again while it was read", code="cache-busy", hint="try again"
        )

    def known(self, lost: Lost) -> CacheIndex:
        """As in CachePlace."""
        try:
            return self.read()
        except TransferError as error:
            if error.code not in _LOST:
                raise
            lost(error)
            return CacheIndex()

    def fetch(self, digest: str, size: int, sink: Sink) -> None:
        """Raises TransferError (`cache-blob-missing`), UntrustedDataError (`cache-damaged`), HostError, and what
        `sink` raises."""
        with folder_errors(self.label):
            file = open_regular(self._blob(digest))
        if file is None:
            raise missing(self.label, digest)
        with file:
            if os.fstat(file.fileno()).st_size != size:
                raise damaged(self.label, digest)
            left = size
            while left:
                check(self._cancelled)
                with folder_errors(self.label):
                    chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise damaged(self.label, digest)
                left -= len(chunk)
                sink(chunk)

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob of that size is there. It is kept for an hour then, needed or not."""
        path = self._blob(digest)
        try:
            if not path.is_file() or path.stat().st_size != size:
                return False
            os.utime(path)
        except OSError:
            # Somebody else's, whose time we may not set: it is sent again, and is ours then.
            return False
        return True

    def send(self, digest: str, size: int, media_type: str, open_blob: Callable[[], BinaryIO]) -> None:
        """Raises HostError (`cache-folder`), UntrustedDataError (`digest-mismatch`), InterruptedBuildError."""
        if self.has(digest, size):
            return
        self.prepare()
        with open_blob() as source:
            self._write(self._blob(digest), lambda sink: copy_checked(source, sink, digest, size, self._cancelled))

    def publish(self, change: Change) -> bool:
        """Entries whose blobs are not there are left out; blobs that no entry needs any more go after an hour.

        An index that is damaged is written anew. Raises HostError (`cache-folder`), UntrustedDataError
        (`cache-invalid`, `cache-version`) for a folder that has something else there, InterruptedBuildError.
        """
        self.prepare()
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self._own, "publish", cancelled=self._cancelled))
            except StoreError as error:
                raise unusable(self.label, error.message) from error
            listed = self._listed()
            old, sound = self._old(listed)
            new = change(old).whole(self._sizes()).trimmed()
            if new == old and sound:
                return False
            before = self._needed(listed.digests())
            packed = pack_index(new)
            manifest = manifest_of(new, packed)
            for data in (EMPTY, packed, manifest):
                self._keep(data)
            listed = listed.replaced(self._tag, manifest)
            self._put(self._path / "oci-layout", LAYOUT)
            self._put(self._path / "index.json", listed.to_json())
            with folder_errors(self.label):
                self._clean(before, self._needed(listed.digests()))
            return True

    def close(self) -> None:
        """It holds nothing."""

    def _old(self, listed: Listing) -> tuple[CacheIndex, bool]:
        """What is there, and whether it is to be written anew in any case."""
        try:
            return self._index_of(listed), listed.find(self._tag) is not None
        except TransferError as error:
            if error.code not in _LOST:
                raise
            return CacheIndex(), False

    def _index_of(self, listed: Listing) -> CacheIndex:
        digest = listed.find(self._tag)
        if digest is None:
            return CacheIndex()
        what = f"the {self.label}"
        found = parse_artifact(self._small(digest, MAX_MANIFEST_BYTES), what)
        return unpack_index(self._small(found.digest, found.size), what)

    def _listed(self) -> Listing:
        """Empty where nothing is there yet."""
        if self._path.exists() and not self._path.is_dir():
            raise unusable(self.label, "it is no folder")
        with folder_errors(self.label):
            file = open_regular(self._path / "index.json")
            if file is None:
                return Listing()
            with file:
                data = read_at_most(file, MAX_MANIFEST_BYTES + 1)
        return Listing.parse(data if len(data) <= MAX_MANIFEST_BYTES else b"", f"the {self.label}")

    def _small(self, digest: str, most: int) -> bytes:
        with folder_errors(self.label):
            file = open_regular(self._blob(digest))
            if file is None:
                raise missing(self.label, digest)
            with file:
                data = read_at_most(file, most + 1)
        if digest_of(data) != digest:
            raise UntrustedDataError(
                f"the blob {digest} in the {self.label} is damaged", code="cache-damaged", hint="export the cache again"
            )
        return data

    def _blob(self, digest: str) -> Path:
        return self._blobs / digest.removeprefix("sha256:")

    def prepare(self) -> None:
        """Make the folder. Raises HostError (`cache-folder`) where that cannot be, or something else is in it."""
        with folder_errors(self.label):
            if self._path.is_dir() and not (self._path / "index.json").exists():
                # Somebody who makes the cache at this moment may write the index between the two looks.
                strange = {one.name for one in self._path.iterdir()} - _OURS - {"index.json"}
                if strange:
                    raise unusable(self.label, f"there is something else in it: {min(strange)}")
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._own.mkdir(exist_ok=True)

    def _keep(self, data: bytes) -> None:
        digest = digest_of(data)
        if not self.has(digest, len(data)):
            self._put(self._blob(digest), data)

    def _put(self, final: Path, data: bytes) -> None:
        self._write(final, lambda sink: sink(data))

    def _write(self, final: Path, fill: Callable[[Sink], object]) -> None:
        write_durably(final, self._own, self.label, fill)

    def _sizes(self) -> dict[str, int]:
        with folder_errors(self.label), os.scandir(self._blobs) as found:
            return {f"sha256:{one.name}": one.stat().st_size for one in found if one.is_file()}

    def _clean(self, before: set[str] | None, needed: set[str] | None) -> None:
        """Remove what has not been needed for a while, where it can be told what is needed."""
        remove_leftovers(self._own, KEPT_SECONDS)
        if needed is None:
            return
        for digest in (before or set()) - needed:
            # Nobody needs it from now on: its hour begins.
            with suppress(OSError):
                os.utime(self._blob(digest))
        now = time.time()
        for name in os.listdir(self._blobs):
            path = self._blobs / name
            with suppress(OSError):
                if f"sha256:{name}" not in needed and now - path.stat().st_mtime > KEPT_SECONDS:
                    path.unlink()
        sync_directory(self._blobs)

    def _needed(self, manifests: Iterable[str]) -> set[str] | None:
        """Every blob that these speak of, of images under other tags too; None where that cannot be told."""
        needed: set[str] = set()
        left = set(manifests)
        seen: set[str] = set()
        while left:
            digest = left.pop()
            seen.add(digest)
            try:
                found = References.parse(self._small(digest, MAX_MANIFEST_BYTES))
            except TransferError:
                found = None
            if found is None:
                return None
            needed |= {digest, *found.blobs}
            left |= set(found.manifests) - seen
        return needed
