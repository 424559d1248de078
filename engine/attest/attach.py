"""Attestations as BuildKit attaches them to images, and as OCI referrers: one manifest is both.

    index
      image's manifest
      attestation manifest     platform unknown/unknown, `vnd.docker.reference.*` say which image is meant
        subject                the image's manifest, so that registries list it as its referrer
        config                 an image configuration that means nothing, for readers that insist on one
        layers                 a statement each; beside one that is signed, its envelope

Sources: BuildKit's attestations/attestation-storage.md; OCI image spec 1.1, manifest.md, "subject".
"""

from __future__ import annotations

from collections.abc import Sequence

from cache.store import Store
from engine.attest.dsse import ENVELOPE_TYPE, AttestationSigner
from engine.attest.statement import MEDIA_TYPE, Statement
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.jsonvalue import dump
from engine.images.manifest import Manifest
from engine.output.index import BuiltAttestation
from machinefile.platform import Platform

PREDICATE_TYPE = "in-toto.io/predicate-type"
REFERENCE_TYPE = "vnd.docker.reference.type"
REFERENCE_DIGEST = "vnd.docker.reference.digest"
IS_ATTESTATION = "attestation-manifest"

_NOWHERE = Platform("unknown", "unknown")


def attestation(
    image: Descriptor, statements: Sequence[Statement], signer: AttestationSigner | None, store: Store
) -> BuiltAttestation:
    """What is said about an image's manifest, put into the store. Raises StoreError."""
    blobs: list[Descriptor] = []
    for statement in statements:
        data = statement.to_json()
        annotations = ((PREDICATE_TYPE, statement.predicate_type),)
        blobs.append(_stored(data, MEDIA_TYPE, store, annotations))
        if signer is not None:
            blobs.append(_stored(signer.sign(data).to_json(), ENVELOPE_TYPE, store, annotations))
    manifest = Manifest(
        config=_stored(_configuration(blobs), mediatype.OCI_CONFIG, store),
        layers=tuple(blobs),
        artifact_type=MEDIA_TYPE,
        subject=Descriptor(image.media_type, image.digest, image.size),
    )
    data = manifest.to_json()
    line = Descriptor(
        manifest.media_type,
        store.blobs.put(data),
        len(data),
        _NOWHERE,
        ((REFERENCE_DIGEST, image.digest), (REFERENCE_TYPE, IS_ATTESTATION)),
    )
    return BuiltAttestation(line, manifest)


def is_attestation(line: Descriptor) -> bool:
    """Whether a line of an index stands for what is said about an image."""
    return line.annotation(REFERENCE_TYPE) == IS_ATTESTATION


def _stored(data: bytes, media_type: str, store: Store, annotations: tuple[tuple[str, str], ...] = ()) -> Descriptor:
    return Descriptor(media_type, store.blobs.put(data), len(data), annotations=annotations)


def _configuration(blobs: Sequence[Descriptor]) -> bytes:
    return dump(
        {
            "architecture": _NOWHERE.architecture,
            "os": _NOWHERE.os,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in blobs]},
        }
    )
