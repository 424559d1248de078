"""Finds what is said about an image: beside it in its index, among its registry's referrers, in a file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from cache.store import Store
from engine.attest.attach import PREDICATE_TYPE, REFERENCE_DIGEST, is_attestation
from engine.attest.dsse import ENVELOPE_TYPE
from engine.attest.statement import MEDIA_TYPE, PROVENANCE_TYPE
from engine.images.descriptor import Descriptor
from engine.images.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_manifest
from engine.images.place import Place, RegistryPlace
from engine.images.reference import Reference, parse_reference
from engine.images.selection import MAX_DEPTH, MAX_INDEXES
from engine.images.source import ImageSources
from machinefile.errors import StoreError, UntrustedDataError, UsageError
from machinefile.values import dataclass

MAX_PROVENANCE_BYTES = 64 << 20
"""Of all provenances of an image, in their envelopes or without: most of one is a Machinefile."""
_MOST = 16
"""Provenances of one image, and manifests that are about it."""


@dataclass(frozen=True, slots=True)
class Found:
    """What may be said about an image; nothing of it was checked but its size."""

    where: str
    data: bytes
    signed: bool
    """Whether it comes in an envelope."""


@dataclass(frozen=True, slots=True)
class Attached:
    """All that was found."""

    provenances: tuple[Found, ...]
    others: tuple[str, ...]
    """The types of what is said beside it."""


class Documents(Protocol):
    """Where manifests and blobs are read."""

    def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest or an index."""
        ...

    def blob(self, descriptor: Descriptor) -> bytes:
        """A blob, of at most MAX_PROVENANCE_BYTES."""
        ...


def from_file(path: Path) -> Found:
    """An envelope, or a statement without one. Raises UsageError (`attestation-unreadable`), UntrustedDataError."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe would be waited for
                raise UsageError(f"{path} is not a file", code="attestation-unreadable")
            data = file.read(MAX_PROVENANCE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", code="attestation-unreadable") from error
    if len(data) > MAX_PROVENANCE_BYTES:
        raise _too_large(str(path), len(data))
    return Found(str(path), data, b'"payloadType"' in data)


def attached_to(name: str, digest: str, store: Store, source: ImageSources) -> Attached:
    """What is said about the image with that digest, which was found under a name. Raises as reading it does."""
    kept = _in_store(name, digest, store)
    if kept is not None:
        return kept
    place = source.place(name)
    documents = _OfPlace(place)
    manifests = list(_about(documents, place.root(), digest))
    reference = parse_reference(name)
    if not manifests and isinstance(reference, Reference) and isinstance(place, RegistryPlace):
        from engine.images.referrers import referrers_of

        listed = referrers_of(source.registry(), reference, digest)
        manifests = [one for one in listed if one.artifact_type == MEDIA_TYPE][-_MOST:]
    return _read(documents, manifests, digest, name)


def _in_store(name: str, digest: str, store: Store) -> Attached | None:
    """Of an image that the store has under that name, or by its digest under any."""
    documents = _OfStore(store)
    if name.startswith("sha256:"):
        roots = [name, *(image.digest for image in store.names.all())]
    else:
        reference = parse_reference(name)
        image = store.names.get(str(reference)) if isinstance(reference, Reference) else None
        if image is None:
            return None
        roots = [image.digest]
    found: dict[str, Descriptor] = {}
    for root in dict.fromkeys(roots):
        try:
            found |= {one.digest: one for one in _about(documents, Descriptor("", root, 0), digest)}
        except StoreError:  # another name's index, parts of which are gone
            continue
    return _read(documents, list(found.values())[:_MOST], digest, name)


def _about(documents: Documents, root: Descriptor, digest: str) -> Iterator[Descriptor]:
    """The attestation manifests for an image in an index, and in those within it."""
    todo, seen = [(root, MAX_DEPTH)], 0
    while todo and seen < MAX_INDEXES:
        descriptor, depth = todo.pop()
        document = parse_manifest(documents.manifest(descriptor), f"the manifest {descriptor.digest}")
        if not isinstance(document, Index):
            continue
        seen += 1
        lines = [line for line in document.manifests if is_attestation(line)]
        yield from [line for line in lines if line.annotation(REFERENCE_DIGEST) == digest][:_MOST]
        if depth:
            todo += [(line, depth - 1) for line in document.manifests if "index" in line.media_type][:MAX_INDEXES]


def _read(documents: Documents, manifests: Sequence[Descriptor], digest: str, name: str) -> Attached:
    found: list[Found] = []
    others: dict[str, None] = {}
    for line in manifests:
        manifest = parse_manifest(documents.manifest(line), f"the attestation {line.digest}")
        if not isinstance(manifest, Manifest):
            continue
        for layer in manifest.layers:
            kind = layer.annotation(PREDICATE_TYPE)
            if layer.media_type not in (MEDIA_TYPE, ENVELOPE_TYPE):
                continue
            if kind != PROVENANCE_TYPE:
                others[kind[:200]] = None
            elif len(found) < _MOST:
                where = f"the attestation of {name}"
                size = layer.size + sum(len(one.data) for one in found)  # so much is held at once
                if size > MAX_PROVENANCE_BYTES:
                    raise _too_large(where, size)
                found.append(Found(where, documents.blob(layer), layer.media_type == ENVELOPE_TYPE))
    return Attached(tuple(found), tuple(others))


def _too_large(where: str, size: int) -> UntrustedDataError:
    return UntrustedDataError(
        f"{where} has {size} bytes; at most {MAX_PROVENANCE_BYTES} are read", code="attestation-invalid"
    )


@dataclass(frozen=True, slots=True)
class _OfPlace:
    place: Place

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.place.manifest(descriptor)

    def blob(self, descriptor: Descriptor) -> bytes:
        parts: list[bytes] = []
        self.place.stream(descriptor, parts.append)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _OfStore:
    store: Store

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self.store.blobs.read(descriptor.digest, MAX_MANIFEST_BYTES)

    def blob(self, descriptor: Descriptor) -> bytes:
        return self.store.blobs.read(descriptor.digest, MAX_PROVENANCE_BYTES)
