"""Small caches that travel: blobs, entries, and sending them somewhere."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable

from cache.carry.entry import CacheEntry, CarriedMount
from cache.carry.index import CacheIndex
from cache.carry.place import CachePlace
from cache.results import Layer, StepResult

GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(content: bytes) -> Layer:
    return Layer(digest_of(b"plain " + content), digest_of(content), len(content), GZIP)


def entry(name: str, *contents: bytes, used: int = 20_000, created: float = 1_700_000_000) -> CacheEntry:
    """A step of that name whose layers' blobs have these contents."""
    result = StepResult((*map(layer, contents), None), 1.5, created)
    return CacheEntry(digest_of(name.encode()), digest_of(b"content " + name.encode()), result, used)


def mount(name: str, content: bytes = b"disk", created: int = 1_700_000_000) -> CarriedMount:
    return CarriedMount(hashlib.sha256(name.encode()).hexdigest(), name, digest_of(content), len(content), created)


def index(*entries: CacheEntry, mounts: Iterable[CarriedMount] = ()) -> CacheIndex:
    return CacheIndex({one.key: one for one in entries}, {one.identity: one for one in mounts})


def send(place: CachePlace, content: bytes) -> bool:
    """Send a blob; whether the place wanted it."""
    asked = []

    def open_blob() -> io.BytesIO:
        asked.append(content)
        return io.BytesIO(content)

    place.send(digest_of(content), len(content), GZIP, open_blob)
    return bool(asked)


def put(place: CachePlace, name: str, content: bytes, used: int = 20_000) -> CacheEntry:
    """Send a step with one layer, and publish it."""
    made = entry(name, content, used=used)
    send(place, content)
    assert place.publish(lambda old: old.merged(index(made)))
    return made


def fetched(place: CachePlace, content: bytes) -> bytes:
    parts: list[bytes] = []
    place.fetch(digest_of(content), len(content), parts.append)
    return b"".join(parts)
