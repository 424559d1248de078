"""The images that the store keeps by name: found, named, pulled, pushed."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from cache.names import NamedImage
from cache.spans import span
from cache.store import Store
from engine.bases import Bases
from engine.events import Observer
from engine.images.descriptor import Descriptor
from engine.images.manifest import Manifest, parse_manifest
from engine.images.push import Pushed, push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.source import ImageSource
from engine.images.upload import Open
from engine.origins import origins, remember
from machinefile.errors import UsageError
from machinefile.platform import Platform
from machinefile.steps import BaseReference


def find(store: Store, name: str) -> NamedImage:
    """The image that the store keeps under a name. Raises UsageError (`reference-invalid`, `image-unknown`)."""
    named = store.names.get(str(Reference.parse(name)))
    if named is not None:
        return named
    known = [Reference.parse(image.name).short for image in store.names.all()]
    near = difflib.get_close_matches(Reference.parse(name).short, known, n=1)
    raise UsageError(
        f"the store has no image {name!r}",
        code="image-unknown",
        hint=f"did you mean {near[0]}?" if near else "build one with mbuild -t NAME; mbuild images lists them",
    )


def keep(store: Store, reference: Reference, digest: str, size: int, media_type: str) -> NamedImage:
    """Give a manifest, `size` bytes long, a name, taking it from whatever had it."""
    kept = datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    named = NamedImage(str(reference), digest, size, media_type, kept)
    store.names.put(named)
    return named


def tag(store: Store, name: str, new: str) -> NamedImage:
    """Give an image a further name. Raises UsageError (`reference-invalid`, `image-unknown`)."""
    reference = Reference.parse(new)
    if reference.digest:
        raise UsageError(
            f"{new!r} has a digest, which nobody can choose", code="reference-invalid", hint="write NAME[:TAG]"
        )
    image = find(store, name)
    return keep(store, reference, image.digest, image.size, image.media_type)


def untag(store: Store, names: Iterable[str]) -> tuple[NamedImage, ...]:
    """Forget names: all of them, or, if one is not known, none. What they stood for stays until the store is
    cleaned. Raises UsageError (`reference-invalid`, `image-unknown`)."""
    images = tuple({image.name: image for image in (find(store, name) for name in names)}.values())
    for image in images:
        store.names.drop(image.name)
    return images


def pull(
    store: Store,
    source: ImageSource,
    reference: Reference,
    platform: Platform,
    observer: Observer,
    cancelled: threading.Event | None = None,
) -> NamedImage:
    """Bring an image, for one platform, into the store under its name, with all its layers.

    Raises TransferError, UntrustedDataError, StoreError, InterruptedBuildError.
    """
    bases = Bases(store, source, observer, cancelled)
    base = bases.get(BaseReference(str(reference), platform))
    bases.pull_all(base)
    manifest = store.blobs.read(base.digest)
    return keep(store, reference, base.digest, len(manifest), parse_manifest(manifest).media_type)


def push(
    store: Store,
    client: RegistryClient,
    digest: str,
    destination: Reference,
    observer: Observer,
    cancelled: threading.Event | None = None,
    open_blob: Open | None = None,
    check: Callable[[], object] | None = None,
) -> Pushed:
    """Bring the image or index with that digest from the store into a registry.

    Blobs that the registry is known to have elsewhere are not sent. Of an image whose layers are not all in the store,
    `open_blob` fetches those that must be sent; one that is there already is not looked at blob by blob, nor is
    `check` called then, which else comes before anything is sent. Raises as `push_image`, `open_blob` and `check`.
    """
    manifest = store.blobs.read(digest)
    known = origins(store, destination.registry)
    documents = tuple(_documents_of(store, digest))
    images = tuple(one for _, one in documents)
    whole = all(store.blobs.has(layer.digest, layer.size) for image in images for layer in image.layers)
    with span("push", "output", to=destination.short):
        done = push_image(
            client,
            destination,
            manifest,
            open_blob or store.blobs.open,
            origins=known,
            observer=observer,
            cancelled=cancelled,
            look_first=not whole,
            check=check,
        )
    if any(one.subject is not None for one in images):
        from engine.images.referrers import list_referrers

        list_referrers(client, destination, documents)
    for one in images:
        remember(store, [blob.digest for blob in (one.config, *one.layers) if not blob.urls], destination)
    return done


def manifests_of(store: Store, digest: str) -> Iterator[Manifest]:
    """The manifest with that digest, or all those of the index. Raises StoreError (`blob-missing`)."""
    yield from (manifest for _, manifest in _documents_of(store, digest))


def _documents_of(store: Store, digest: str) -> Iterator[tuple[Descriptor, Manifest]]:
    data = store.blobs.read(digest)
    parsed = parse_manifest(data)
    if isinstance(parsed, Manifest):
        yield Descriptor(parsed.media_type, digest, len(data)), parsed
        return
    for child in parsed.manifests:
        yield from _documents_of(store, child.digest)
