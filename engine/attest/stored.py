"""Attests an image that the store keeps."""

from __future__ import annotations

from dataclasses import replace

from cache.index import Kind
from cache.names import NamedImage
from cache.results import Layer
from cache.store import Store
from engine.attest.attach import REFERENCE_DIGEST, is_attestation
from engine.attest.make import Attester, ImageToAttest
from engine.attest.provenance import kept_provenance
from engine.images import mediatype
from engine.images.config import parse_configuration
from engine.images.descriptor import Descriptor
from engine.images.manifest import Index, Manifest, parse_manifest
from engine.images.reference import Reference
from engine.imagestore import find, keep
from machinefile.errors import UntrustedDataError, UsageError


def attest_stored(store: Store, attester: Attester, name: str, *, provenance: bool) -> NamedImage:
    """Put attestations beside each image of that name, in place of those that it had. The name stands for an index of
    them all from now on; the images' own manifests stay as they are.

    Raises UsageError: `image-unknown`, `attest-unknown` (`provenance` of an image that was not built here),
    `attest-foreign` (something that is no image); StoreError, UntrustedDataError.
    """
    named = find(store, name)
    document = parse_manifest(store.blobs.read(named.digest))
    lines: tuple[Descriptor, ...] = (Descriptor(named.media_type, named.digest, named.size),)
    if isinstance(document, Index):
        lines = tuple(line for line in document.manifests if not is_attestation(line))
    images = tuple(_image(store, line, named.name, provenance=provenance) for line in lines)
    made = tuple(attester.image(image, [named.name]) for image in images)
    listed = (*(image.line for image in images), *(one.line for one in made))
    if isinstance(document, Index):
        index = replace(document, manifests=listed, media_type=mediatype.OCI_INDEX)
    else:
        index = Index(listed)
    data = index.to_json()
    kept = keep(store, Reference.parse(named.name), store.blobs.put(data), len(data), index.media_type)
    if (machine := store.index.get(Kind.MACHINE, named.digest)) is not None:
        store.index.put(Kind.MACHINE, kept.digest, machine)
    return kept


def attestations_of(store: Store, digest: str) -> tuple[tuple[str, Manifest], ...]:
    """The attestation manifests of the index with that digest, each with the digest of the image that it is about; none
    where there is no index. Raises StoreError, UntrustedDataError."""
    document = parse_manifest(store.blobs.read(digest))
    if not isinstance(document, Index):
        return ()
    found = []
    for line in filter(is_attestation, document.manifests):
        manifest = parse_manifest(store.blobs.read(line.digest))
        if isinstance(manifest, Manifest):
            found.append((line.annotation(REFERENCE_DIGEST), manifest))
    return tuple(found)


def _image(store: Store, line: Descriptor, name: str, *, provenance: bool) -> ImageToAttest:
    manifest = parse_manifest(store.blobs.read(line.digest))
    if not isinstance(manifest, Manifest) or manifest.config.media_type not in mediatype.CONFIGS:
        raise UsageError(f"{name} holds something that is no image", code="attest-foreign", hint="attest an image")
    predicate = kept_provenance(store, line.digest) if provenance else None
    if provenance and predicate is None:
        raise UsageError(
            f"nothing is known of how {name} was built",
            code="attest-unknown",
            hint="build it with --provenance; or ask for --type sbom alone",
        )
    configuration = parse_configuration(store.blobs.read(manifest.config.digest))
    if len(configuration.diff_ids) != len(manifest.layers):
        raise UntrustedDataError(f"{name}: its configuration has not one diff id a layer", code="manifest-invalid")
    layers = tuple(
        Layer(diff_id, layer.digest, layer.size, mediatype.as_oci(layer.media_type) or mediatype.OCI_LAYER_GZIP)
        for layer, diff_id in zip(manifest.layers, configuration.diff_ids, strict=True)
    )
    platform = line.platform or configuration.platform
    full = replace(line, media_type=manifest.media_type, platform=platform)
    return ImageToAttest(full, platform, layers, manifest.config, predicate)
