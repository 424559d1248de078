"""A cache in a registry: an OCI artifact under a tag, or an image that says what its own layers are."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import BinaryIO

from cache.carry.artifact import (
    EMPTY,
    EMPTY_CONFIG_TYPE,
    MANIFEST_TYPE,
    MAX_MANIFEST_BYTES,
    ArtifactIndexBlob,
    manifest_of,
    pack_index,
    unpack_index,
)
from cache.carry.entry import CacheEntry, CarriedMount
from cache.carry.index import MAX_BYTES, MEDIA_TYPE, CacheIndex
from cache.carry.place import Change, Lost, Sink
from engine.carry.inline import parse_inline
from engine.carry.tagged import as_plain_image, is_plain_image, recognise, without_cache
from engine.events import Observer, ignore
from engine.images import mediatype
from engine.images.config import MAX_CONFIG_BYTES
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.image import ResolvedImage, resolved
from engine.images.manifest import Index, Manifest, parse_manifest
from engine.images.push import Origins, no_origins, put_manifest
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.session import push_scope
from engine.images.upload import Upload
from engine.parallel import in_parallel
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError, UsageError
from machinefile.values import dataclass

PARALLEL = 4
_TRIES = 16
_MOST_IMAGES = 32
"""Images of an index that are looked into."""
_LONGEST_PAUSE = 5.0
_LOST = frozenset({"blob-not-found", "blob-truncated", "blob-too-long", "digest-mismatch"})
"""What is the matter with an index that the registry lists and does not have."""


@dataclass(frozen=True, slots=True)
class _Published:
    """What the tag stands for."""

    digest: str = ""
    """Of the manifest; empty where there is none."""
    index: CacheIndex = CacheIndex()
    plain: bool = False
    """Whether it had to look like an image."""


class RegistryCache:
    """A CachePlace: one tag of a repository.

    Registries know no compare-and-swap: whoever writes a tag last wins. So `publish` looks again right before it
    writes, and once more a while after; what another had overwritten meanwhile is merged and written again. What
    another writes between our last look and our writing is lost only if that other has looked for its own already.
    """

    def __init__(
        self,
        client: Callable[[], RegistryClient],
        reference: Reference,
        observer: Observer = ignore,
        cancelled: threading.Event | None = None,
        *,
        origins: Origins = no_origins,
        settle: float = 0.2,
    ) -> None:
        """`client` is called when the registry must be asked; who gives it closes it. `origins` tells of a blob the
        repositories of the same registry that may have it. After a write, `settle` seconds pass before we look
        whether it lasted, or more where the registry is slow."""
        self._client = client
        self._reference = reference
        self._observer = observer
        self._cancelled = cancelled or threading.Event()
        self._origins = origins
        self._settle = settle
        self._name = reference.short

    @property
    def reference(self) -> Reference:
        """Where it is: blobs that were sent are in that repository now."""
        return self._reference

    @property
    def label(self) -> str:
        """As in CachePlace."""
        return f"registry {self._name}"

    def read(self) -> CacheIndex:
        """As in CachePlace: the artifact's, or what the image, or images, under the tag say of themselves. Never from a
        mirror, which may be behind.

        Raises UntrustedDataError (`not-a-cache`) for an image without a cache, and for what is neither.
        """
        data = self._client().own_manifest(self._reference)
        if data is None:
            return CacheIndex()
        found = recognise(data, self._name)
        if isinstance(found, ArtifactIndexBlob):
            return self._index(found)
        return self._inside(found, data)

    def known(self, lost: Lost) -> CacheIndex:
        """As in CachePlace. An image is refused even if there is a cache in it."""
        return self._published(lost).index

    def fetch(self, digest: str, size: int, sink: Sink) -> None:
        """As in CachePlace; the digest is checked here too."""
        self._client().blob(self._reference, Descriptor("", digest, size), sink, quiet=True, direct=True)

    def has(self, digest: str, size: int) -> bool:
        """As in CachePlace: whether the repository has it."""
        upload = self._upload(Descriptor("", digest, size), _nothing)
        return upload.is_there(self._cancelled)

    def send(self, digest: str, size: int, media_type: str, open_blob: Callable[[], BinaryIO]) -> None:
        """As in CachePlace. A blob that the registry has in another repository is taken from there."""
        self._upload(Descriptor(media_type, digest, size), open_blob).run(self._cancelled)

    def publish(self, change: Change) -> bool:
        """As in CachePlace.

        Raises UsageError (`push-digest`) for a name with a digest; UntrustedDataError (`not-a-cache`) rather than write
        over an image; TransferError (`cache-contended`) when others keep writing, `cache-too-large`, `push-refused`.
        """
        if self._reference.digest:
            raise UsageError(
                f"a cache cannot be written to {self._name}: its digest is not known before",
                code="push-digest",
                hint="name it with a tag and without a digest",
            )
        written = False
        for attempt in range(_TRIES):
            begun = time.monotonic()
            there = self._published()
            wanted = change(there.index)
            if wanted.to_json() == there.index.to_json():
                return written
            digest = self._write(there, wanted)
            took = time.monotonic() - begun
            if digest:
                written = True
                self._pause(max(self._settle, min(3 * took, _LONGEST_PAUSE)))
                if self._digest_now() == digest:
                    return True
            self._pause(random.uniform(0, min(took * 2**attempt, _LONGEST_PAUSE)))  # noqa: S311 - against lockstep
        raise TransferError(
            f"others keep writing to the cache {self._name}",
            code="cache-contended",
            hint="try again later, or give those who write at the same time tags of their own",
        )

    def close(self) -> None:
        """As in CachePlace: nothing, the client is its giver's."""

    def _published(self, lost: Lost = lambda error: None) -> _Published:
        """The artifact that is there now; an index that got lost, or is damaged, is begun anew."""
        data = self._client().own_manifest(self._reference, scope=push_scope(self._reference.repository))
        if data is None:
            return _Published()
        found = recognise(data, self._name)
        if not isinstance(found, ArtifactIndexBlob):
            raise UntrustedDataError(
                f"{self._name} is an image: a cache is not written over it",
                code="not-a-cache",
                hint="name another tag for the cache, or use --cache-to type=inline",
            )
        there = _Published(digest_of(data), plain=is_plain_image(data))
        try:
            return replace(there, index=self._index(found))
        except TransferError as error:
            if error.code in _LOST or error.code == "cache-invalid":
                lost(error)
                return there
            raise

    def _index(self, blob: ArtifactIndexBlob) -> CacheIndex:
        return unpack_index(self._small(Descriptor("", blob.digest, blob.size), MAX_BYTES), self._name)

    def _small(self, blob: Descriptor, limit: int) -> bytes:
        if blob.size > limit:
            raise UntrustedDataError(
                f"the blob {blob.digest} of {self._name} has {blob.size} bytes; at most {limit} are taken",
                code="blob-too-large",
            )
        parts: list[bytes] = []
        self._client().blob(self._reference, blob, parts.append, quiet=True, direct=True)
        return b"".join(parts)

    def _inside(self, found: Manifest | Index, data: bytes) -> CacheIndex:
        """What images say of their own layers. A few images at a time: each may say as much as an index may hold."""
        images = iter([data]) if isinstance(found, Manifest) else self._images(found)
        merged: CacheIndex | None = None
        while few := list(islice(images, PARALLEL)):
            for one in in_parallel([partial(self._inline, image) for image in few], PARALLEL, self._cancelled):
                if one is not None:
                    merged = (merged or CacheIndex()).merged(one)
        if merged is None:
            raise without_cache(self._name)
        return merged

    def _images(self, index: Index) -> Iterator[bytes]:
        """The manifests of the images in an index; attestations are for no platform that anything runs on."""
        wanted = [
            child
            for child in index.manifests
            if child.media_type in mediatype.MANIFESTS and (child.platform is None or child.platform.os != "unknown")
        ]
        for child in wanted[:_MOST_IMAGES]:
            data = self._client().own_manifest(self._reference.pinned(child.digest))
            if data is not None:
                yield data

    def _inline(self, data: bytes, stop: threading.Event) -> CacheIndex | None:
        if stop.is_set():
            raise InterruptedBuildError
        manifest = parse_manifest(data, f"the manifest of {self._name}")
        if not isinstance(manifest, Manifest) or manifest.config.media_type not in mediatype.CONFIGS:
            return None
        image: ResolvedImage = resolved(self._name, data, self._small(manifest.config, MAX_CONFIG_BYTES))
        text = image.configuration.inline_cache
        return parse_inline(text, image.layers, self._name) if text else None

    def _write(self, there: _Published, wanted: CacheIndex) -> str:
        """Put an index under the tag, unless the tag moved since `there` was read; gives the manifest's digest.

        Entries whose blobs the registry turns out to have lost are left out.
        """
        try:
            return self._put(there, wanted, plain=there.plain)
        except TransferError as refused:
            if refused.code != "push-refused":
                raise
            kept = self._without_lost(wanted)
            if kept is not None:
                return self._put(there, kept, plain=there.plain)
            if there.plain:
                raise
            try:
                return self._put(there, wanted, plain=True)
            except TransferError as error:
                if error.code == "push-refused":
                    raise refused from error
                raise

    def _put(self, there: _Published, wanted: CacheIndex, *, plain: bool) -> str:
        packed = pack_index(wanted)
        manifest, config, config_type = manifest_of(wanted, packed), EMPTY, EMPTY_CONFIG_TYPE
        if plain:
            image = as_plain_image(manifest, wanted)
            manifest, config, config_type = image.manifest, image.config, mediatype.OCI_CONFIG
        if len(manifest) > MAX_MANIFEST_BYTES:
            raise TransferError(
                f"the cache {self._name} has more blobs than a registry's manifest may list",
                code="cache-too-large",
                hint="use another tag, a tag for each branch for instance, or mode=min",
            )
        blobs = ((config_type, config), (MEDIA_TYPE, packed))
        in_parallel([partial(self._send_own, kind, data) for kind, data in blobs], PARALLEL, self._cancelled)
        if self._digest_now() != there.digest:
            return ""
        put_manifest(self._client(), self._reference, manifest, MANIFEST_TYPE, self._reference.target)
        return digest_of(manifest)

    def _without_lost(self, index: CacheIndex) -> CacheIndex | None:
        """The index without what needs blobs that the repository does not have; None when it has them all."""
        sizes = index.blobs()

        def is_lost(digest: str, stop: threading.Event) -> bool:
            return not self._upload(Descriptor("", digest, sizes[digest]), _nothing).is_there(stop)

        answers = in_parallel([partial(is_lost, digest) for digest in sizes], PARALLEL, self._cancelled)
        lost = {digest for digest, gone in zip(sizes, answers, strict=True) if gone}

        def is_whole(one: CacheEntry | CarriedMount) -> bool:
            if isinstance(one, CarriedMount):
                return one.digest not in lost
            return not lost & {one.records, *(layer.digest for layer in one.result.layers)}

        return index.only(is_whole).trimmed() if lost else None

    def _digest_now(self) -> str:
        data = self._client().own_manifest(self._reference, scope=push_scope(self._reference.repository))
        return "" if data is None else digest_of(data)

    def _send_own(self, media_type: str, data: bytes, stop: threading.Event) -> None:
        blob = Descriptor(media_type, digest_of(data), len(data))
        Upload(self._client().session, self._reference, blob, lambda digest: io.BytesIO(data)).run(stop)

    def _upload(self, blob: Descriptor, open_blob: Callable[[], BinaryIO]) -> Upload:
        known = [origin for origin in self._origins(blob.digest) if origin != self._reference.repository]
        session = self._client().session
        return Upload(session, self._reference, blob, lambda digest: open_blob(), known, self._observer)

    def _pause(self, seconds: float) -> None:
        if self._cancelled.wait(seconds):
            raise InterruptedBuildError


def _nothing() -> BinaryIO:
    raise AssertionError("what is only looked for is not opened")
