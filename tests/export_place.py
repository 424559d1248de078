"""A place for caches in memory, that tells what it was asked for, and who signs for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import BinaryIO, TypeVar

from cache.carry.entry import CacheEntry, CarriedMount, Signature
from cache.carry.index import CacheIndex
from cache.carry.place import Change, Lost, Sink
from machinefile.errors import MbuildError, TransferError

_Signed = TypeVar("_Signed", CacheEntry, CarriedMount)


@dataclass
class MemoryPlace:
    """As the places that there are: refuses an index whose blobs are not all there."""

    label: str = "memory"
    index: CacheIndex = field(default_factory=CacheIndex)
    blobs: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    published: int = 0
    failure: MbuildError | None = None
    before_publish: Callable[[MemoryPlace], None] | None = None
    """Called once: what somebody else does meanwhile."""
    closed: bool = False

    def read(self) -> CacheIndex:
        self._fail()
        return self.index

    def known(self, lost: Lost) -> CacheIndex:
        return self.read()

    def fetch(self, digest: str, size: int, sink: Sink) -> None:
        self.fetched.append(digest)
        if digest not in self.blobs:
            raise TransferError(f"{digest} is gone", code="blob-unknown")
        data = self.blobs[digest][:size]
        for at in range(0, len(data), 1000):
            sink(data[at : at + 1000])

    def has(self, digest: str, size: int) -> bool:
        return len(self.blobs.get(digest, b"")) == size

    def send(self, digest: str, size: int, media_type: str, open_blob: Callable[[], BinaryIO]) -> None:
        self._fail()
        with open_blob() as blob:
            data = blob.read()
        assert len(data) == size
        assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
        self.blobs[digest] = data
        self.types[digest] = media_type
        self.sent.append(digest)

    def publish(self, change: Change) -> bool:
        self._fail()
        change(self.index)
        if self.before_publish is not None:
            self.before_publish(self)
            self.before_publish = None
        changed = change(self.index)
        assert changed.blobs().items() <= {digest: len(data) for digest, data in self.blobs.items()}.items()
        if changed.to_json() == self.index.to_json():
            return False
        self.index = changed
        self.published += 1
        return True

    def close(self) -> None:
        self.closed = True

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


@dataclass(frozen=True)
class FakeSigner:
    """Signs by hashing."""

    key: str = "k"

    def sign(self, entry: _Signed, /) -> _Signed:
        value = hashlib.sha256(self.key.encode() + entry.payload()).hexdigest()
        others = tuple(one for one in entry.signatures if one.key_id != self.key)
        return replace(entry, signatures=(*others, Signature(self.key, value)))

    def trusts(self, entry: CacheEntry | CarriedMount) -> bool:
        mine = tuple(one for one in entry.signatures if one.key_id == self.key)
        return bool(mine) and self.sign(replace(entry, signatures=())).signatures == mine
