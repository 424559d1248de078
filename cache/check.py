"""Looking through what the store keeps by digest and by key: blobs, and the index."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from cache.files import store_errors
from cache.finding import Finding, Harm, Seen
from cache.index import Kind
from cache.results import Layer
from cache.seals import stamp_of
from cache.shapes import is_usable
from cache.store import FOLDERS, Store
from machinefile.errors import InterruptedBuildError, StoreError

_HEX = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RESULTS = (Kind.RESULT, Kind.CONTENT)

Progress = Callable[[int, int], None]
"""Told how many bytes of how many were looked at."""
DiffId = Callable[[Layer], str]
"""The diff id that a layer's blob has, whatever the layer says; empty when it cannot be read as a layer."""


class CacheCheck:
    """One look through a store.

    Everything may be used, added to and removed from meanwhile: what is gone when it is looked at is not missed, and
    what is found wrong is looked at again before it is said.
    """

    def __init__(self, store: Store, cancelled: threading.Event, progress: Progress, *, fast: bool = False) -> None:
        """`fast` believes the seals of files (cache/seals.py) and reads only those that were touched since."""
        self.store = store
        self.seen = Seen()
        self.bad: set[str] = set()
        """The digests of damaged blobs."""
        self._cancelled = cancelled
        self._progress = progress
        self.fast = fast

    def pause(self) -> None:
        """Raises InterruptedBuildError once the user wants no more of it."""
        if self._cancelled.is_set():
            raise InterruptedBuildError

    def holds(self, path: Path) -> bool:
        """Whether a file need not be read."""
        return self.fast and self.store.seals.holds(path)

    def blobs(self) -> Iterator[Finding]:
        """Every blob is read."""
        folder = self.store.root / "blobs" / "sha256"
        total = sum(size for _, size in listed(folder))
        done = 0
        for name, size in listed(folder):
            self.pause()
            self._progress(done, total)
            done += size
            path = folder / name
            if not _HEX.fullmatch(name) or not path.is_file() or path.is_symlink():
                if os.path.lexists(path):
                    yield stray(self.store, path)
                continue
            self.seen.blobs += 1
            if self.holds(path):
                continue
            self.seen.bytes += size
            digest = f"sha256:{name}"
            if not self._is_right(digest):
                self.bad.add(digest)
                yield Finding(
                    Harm.BLOB,
                    self._name(path),
                    "its content is not what its digest says",
                    partial(self._drop_blob, digest),
                )
        self._progress(total, total)

    def entries(self, diff_id_of: DiffId) -> Iterator[Finding]:
        """Every entry of the index is read. What results say of layers that are not there is not looked into: those
        were evicted."""
        self._diff_ids: dict[str, str] = {}
        self._facts: dict[str, Layer] = {}
        for kind in Kind:
            for key in self.store.index.keys(kind):
                self.pause()
                self.seen.entries += 1
                harm, wrong = self._wrong_with(kind, key, diff_id_of)
                if wrong:
                    drop = partial(self.store.index.drop, kind, key)
                    yield Finding(harm, f"{kind.value} {key}", wrong, drop)

    def beside(self) -> Iterator[Finding]:
        """What stands beside the store's own files."""
        for path in (*self.store.index.set_aside(), *self.store.names.set_aside()):
            yield Finding(Harm.SET_ASIDE, self._name(path), "it was damaged, and replaced", partial(remove, path))
        aside = {path.name for path in (*self.store.index.set_aside(), *self.store.names.set_aside())}
        for name in sorted(os.listdir(self.store.root)):
            if name not in FOLDERS and name not in aside and not name.startswith("aside."):
                yield Finding(Harm.UNKNOWN, name, "this mbuild knows nothing of it")
        for name, _ in listed(self.store.root / "blobs"):
            if name != "sha256":
                yield stray(self.store, self.store.root / "blobs" / name)

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob is there, and not known to be damaged."""
        return digest not in self.bad and self._size(digest) == size

    def _size(self, digest: str) -> int | None:
        """Of a blob; None when it is not there. Not BlobStore.has: to look after a blob is not to use it."""
        try:
            return self.store.blobs.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def _drop_blob(self, digest: str) -> None:
        if not self._is_right(digest):
            self.store.blobs.drop(digest)

    def _is_right(self, digest: str) -> bool:
        """False too for one that cannot be read; true for one that is gone."""
        path = self.store.blobs.path(digest)
        for _ in range(3):
            before = stamp_of(path)
            try:
                if self.store.blobs.verify(digest):
                    return True
            except StoreError as error:
                if error.code == "blob-missing":
                    return True
            # Another process may just have found it too, and put a right one there.
            if before == stamp_of(path):
                return False
        return True

    def _wrong_with(self, kind: Kind, key: str, diff_id_of: DiffId) -> tuple[Harm, str]:
        if not self.store.index.is_sound(kind, key):
            return Harm.ENTRY, "it cannot be read, or is another entry's"
        value = self.store.index.get(kind, key)
        if value is None:
            return Harm.ENTRY, ""
        if kind in _RESULTS:
            try:
                result = self.store.chains.result(value)
            except ValueError:
                return Harm.ENTRY, "it is no result"
            return Harm.RESULT, next((why for one in result.layers if (why := self._denied(one, diff_id_of))), "")
        if kind is Kind.VARIANT:
            return self._variant(key, value, diff_id_of)
        if kind is Kind.STAMPED:
            return self._stamped(key, value, diff_id_of)
        return Harm.ENTRY, "" if is_usable(kind, value) else f"it is no {kind.value}"

    def _variant(self, key: str, value: object, diff_id_of: DiffId) -> tuple[Harm, str]:
        match value:
            case [str(digest), int(size)] if _DIGEST.fullmatch(digest) and _DIGEST.fullmatch(key[-71:]):
                return Harm.RESULT, self._denied(Layer(key[-71:], digest, size, ""), diff_id_of)
        return Harm.ENTRY, "it names no blob"

    def _stamped(self, key: str, value: object, diff_id_of: DiffId) -> tuple[Harm, str]:
        """A plain layer, which is compared with nothing but its own digest and size."""
        match value:
            case [str(digest), int(size)] if _DIGEST.fullmatch(digest) and _DIGEST.fullmatch(key[-71:]):
                return Harm.RESULT, self._denied(Layer(digest, digest, size, ""), diff_id_of)
        return Harm.ENTRY, "it names no blob"

    def _denied(self, layer: Layer, diff_id_of: DiffId) -> str:
        """What the blob of a layer, or another entry, says against it."""
        size = self._size(layer.digest)
        if size is None or layer.digest in self.bad:
            return ""
        if size != layer.size:
            return f"it takes the blob {layer.digest} for {layer.size} bytes"
        if layer.digest == layer.diff_id:
            return ""
        known = self._facts.setdefault(layer.digest, layer)
        if self.fast:
            same = known.diff_id == layer.diff_id
            return "" if same else f"entries disagree on what is in the blob {layer.digest}"
        if layer.digest not in self._diff_ids:
            self._diff_ids[layer.digest] = diff_id_of(layer)
        if self._diff_ids[layer.digest] == layer.diff_id:
            return ""
        return f"the blob {layer.digest} holds another layer than {layer.diff_id}"

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.store.root))


def listed(folder: Path) -> list[tuple[str, int]]:
    """The names in a folder, sorted, with sizes (bytes); what is gone by now is left out."""
    found = []
    try:
        with os.scandir(folder) as children:
            for child in children:
                with suppress(FileNotFoundError):
                    found.append((child.name, child.stat(follow_symlinks=False).st_size))
    except FileNotFoundError:
        return []
    return sorted(found)


def stray(store: Store, path: Path, message: str = "mbuild did not put it there, or did not finish it") -> Finding:
    """Something that has no place where it is."""
    return Finding(Harm.STRAY, str(path.relative_to(store.root)), message, partial(remove, path))


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there. Raises StoreError."""
    with store_errors(f"removing {path}"):
        try:
            path.unlink(missing_ok=True)
        except (IsADirectoryError, PermissionError):
            if not path.is_dir():
                raise
            shutil.rmtree(path)
