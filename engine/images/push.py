"""Pushing an image, or an index with all its images: blobs first, manifests after what they name, the tag last."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from engine.events import Observer, ignore
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.download import mismatch
from engine.images.manifest import Index, Manifest, parse_manifest
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.selection import MAX_DEPTH
from engine.images.session import Session, push_scope
from engine.images.upload import Delivery, Open, Upload
from engine.parallel import in_parallel
from machinefile.errors import TransferError, UntrustedDataError, UsageError
from machinefile.values import dataclass

PARALLEL = 4
"""Blobs at a time."""

Origins = Callable[[str], Sequence[str]]
"""Repositories of the registry pushed to that may have a blob, by its digest, likeliest first."""


def no_origins(digest: str) -> Sequence[str]:
    """Nothing is known of where blobs came from."""
    return ()


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to."""

    digest: str
    there: int
    """Blobs that the repository had already."""
    mounted: int
    """Blobs that the registry took from another of its repositories."""
    sent: int


@dataclass(frozen=True, slots=True)
class _Document:
    """A manifest or an index, as it goes out."""

    target: str
    """Its digest, or the tag."""
    data: bytes
    media_type: str


def push_image(
    client: RegistryClient,
    reference: Reference,
    manifest: bytes,
    open_blob: Open,
    *,
    origins: Origins = no_origins,
    observer: Observer = ignore,
    cancelled: threading.Event | None = None,
    look_first: bool = False,
    check: Callable[[], object] | None = None,
) -> Pushed:
    """Bring an image into a registry under a name, byte for byte: the digest there is the digest here.

    `manifest` is a manifest, or an index: what it names is read with `open_blob`. A reference with a digest alone
    pushes without a tag. Nobody sees anything of the image before all of it is there. Never goes to a mirror.
    With `look_first` the repository is asked for the image itself before its blobs: one that it has only gets the tag.
    `check` is called before anything is sent; not where only the tag is set.

    Raises UsageError (`push-digest`) for a reference with another image's digest; TransferError
    (`registry-unauthorized`, `registry-unreachable`, `registry-failed`, `push-refused`), UntrustedDataError,
    StoreError (`blob-missing`, `blob-corrupt`), InterruptedBuildError.
    """
    digest = digest_of(manifest)
    if reference.digest and reference.digest != digest:
        raise UsageError(
            f"the image has the digest {digest}, and cannot be pushed as {reference.short}",
            code="push-digest",
            hint="leave the digest out of the name, or push the image that has it",
        )
    documents: list[_Document] = []
    blobs: dict[str, Descriptor] = {}
    _collect(manifest, reference.tag or digest, open_blob, documents, blobs, MAX_DEPTH)

    if look_first and _is_there(client.session, reference, digest):
        if reference.tag:
            whole = documents[-1]
            put_manifest(client, reference, whole.data, whole.media_type, whole.target)
        return Pushed(digest, len(blobs), 0, 0)
    if check is not None:
        check()
    uploads = []
    for blob in blobs.values():
        known = tuple(origin for origin in origins(blob.digest) if origin != reference.repository)
        uploads.append(Upload(client.session, reference, blob, open_blob, known, observer))
    deliveries = in_parallel([upload.run for upload in uploads], PARALLEL, cancelled)
    for document in documents:
        put_manifest(client, reference, document.data, document.media_type, document.target)
    counted = Counter(deliveries)
    return Pushed(digest, counted[Delivery.THERE], counted[Delivery.MOUNTED], counted[Delivery.SENT])


def _is_there(session: Session, reference: Reference, digest: str) -> bool:
    """Whether the repository has that manifest; a registry that cannot say so has not."""
    url = session.url(reference, f"manifests/{digest}")
    headers = {"Accept": mediatype.ACCEPT}

    def ask() -> bool:
        with session.brief(reference, "HEAD", url, headers=headers, scope=push_scope(reference.repository)) as response:
            return response.status_code == 200 and response.headers.get("docker-content-digest") == digest

    return session.attempts().insist(ask)


def _collect(
    data: bytes, target: str, open_blob: Open, documents: list[_Document], blobs: dict[str, Descriptor], depth: int
) -> None:
    """List what is to be pushed, each thing after those that it names."""
    parsed = parse_manifest(data, f"the manifest {digest_of(data)}")
    if isinstance(parsed, Index):
        if not depth:
            raise UntrustedDataError("the image has indexes within indexes without end", code="index-too-deep")
        for child in parsed.manifests:
            _collect(_read(child, open_blob), child.digest, open_blob, documents, blobs, depth - 1)
    else:
        blobs.update({blob.digest: blob for blob in _blobs(parsed)})
    if all(document.target != target for document in documents):
        documents.append(_Document(target, data, parsed.media_type))


def _blobs(manifest: Manifest) -> Iterator[Descriptor]:
    """What the registry must hold: not the foreign layers, which are had from where they say."""
    yield manifest.config
    yield from (layer for layer in manifest.layers if not layer.urls)


def _read(descriptor: Descriptor, open_blob: Open) -> bytes:
    with open_blob(descriptor.digest) as file:
        data = file.read(descriptor.size + 1)
    if digest_of(data) != descriptor.digest:
        raise mismatch("the manifest", descriptor.digest, digest_of(data))
    return data


def put_manifest(client: RegistryClient, reference: Reference, data: bytes, media_type: str, target: str) -> None:
    """Put a manifest, all of whose blobs are there, into the registry under a tag or its digest.

    Raises TransferError (`registry-unauthorized`, `registry-unreachable`, `registry-failed`, `push-refused`),
    UntrustedDataError, InterruptedBuildError.
    """
    document = _Document(target, data, media_type)
    client.session.attempts().insist(lambda: _put_once(client.session, reference, document))


def _put_once(session: Session, reference: Reference, document: _Document) -> None:
    digest = digest_of(document.data)
    url = session.url(reference, f"manifests/{document.target}")
    with session.brief(
        reference,
        "PUT",
        url,
        headers={"Content-Type": document.media_type},
        content=document.data,
        scope=push_scope(reference.repository),
        patience=session.policy.commit_timeout,
    ) as response:
        if response.status_code not in (200, 201, 202, 204):
            failure = session.transport.failure(response, f"the manifest {digest} of {reference.short}")
            if isinstance(failure, TransferError):
                failure.code = "push-refused"
                failure.hint = _hint(response.status_code, document.media_type)
            raise failure
        said = response.headers.get("docker-content-digest", digest)
    if said != digest:
        raise UntrustedDataError(
            f"{reference.registry} keeps {reference.short} as {said[:80]!r}, not as {digest}",
            code="digest-mismatch",
            hint="it changed the manifest: do not trust what it serves",
        )


def _hint(status: int, media_type: str) -> str:
    if status in (400, 415):
        return f"the registry may not know manifests of the type {media_type}, or not all of their blobs"
    if status == 405:
        return "the registry may be for reading alone: a mirror, or a cache"
    return "the registry, or the rules of the repository, do not allow it: tags that must not change, for one"
