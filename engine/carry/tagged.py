"""What a tag in a registry stands for, as far as caches go: pure."""

from __future__ import annotations

import json

from cache.carry.artifact import (
    ARTIFACT_TYPE,
    MAX_MANIFEST_BYTES,
    ArtifactIndexBlob,
    parse_artifact,
)
from cache.carry.index import MAX_BYTES, CacheIndex
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.image import check_is_image
from engine.images.jsonvalue import JsonObject, dump
from engine.images.manifest import Index, Manifest, parse_manifest
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

INDEX_ANNOTATION = "vnd.mbuild.cache.v1.index"
"""In a cache that looks like an image: the digest of the blob, its first layer, that is the cache's index."""
_ARTIFACTS = ARTIFACT_TYPE.removesuffix("v1")
_BUILDKIT = "application/vnd.buildkit.cacheconfig."


@dataclass(frozen=True, slots=True)
class PlainImage:
    """A cache for registries that take nothing but images."""

    manifest: bytes
    config: bytes


def as_plain_image(artifact: bytes, index: CacheIndex) -> PlainImage:
    """A cache's manifest (of `manifest_of`) as that of an image for no platform, with layers that are none."""
    fields = JsonObject.parse(artifact, "the manifest", "cache-invalid", MAX_MANIFEST_BYTES)
    blobs = [Descriptor.from_json(layer) for layer in fields.children("layers")]
    diff_ids = {layer.digest: layer.diff_id for layer in index.layers().values()}
    config = dump(
        {
            "architecture": "unknown",
            "config": {},
            "os": "unknown",
            "rootfs": {"type": "layers", "diff_ids": [diff_ids.get(blob.digest, blob.digest) for blob in blobs]},
        }
    )
    layers = [
        Descriptor(blob.media_type if blob.digest in diff_ids else mediatype.OCI_LAYER_ZSTD, blob.digest, blob.size)
        for blob in blobs
    ]
    manifest = Manifest(
        Descriptor(mediatype.OCI_CONFIG, digest_of(config), len(config)),
        tuple(layers),
        annotations=((INDEX_ANNOTATION, blobs[0].digest),),
    )
    return PlainImage(manifest.to_json(), config)


def is_plain_image(data: bytes) -> bool:
    """Whether a manifest that was recognised as a cache's is of this kind."""
    return "artifactType" not in json.loads(data)


def recognise(data: bytes, what: str) -> ArtifactIndexBlob | Manifest | Index:
    """Where a cache's index is; or the image, or images, that may have a cache inside.

    Raises UntrustedDataError: `not-a-cache` for what is neither, `cache-version`, `cache-invalid`, and what
    `parse_manifest` raises. `what` names the place to the user.
    """
    fields = JsonObject.parse(data, f"the manifest of {what}", "cache-invalid", MAX_MANIFEST_BYTES)
    kind, config = fields.text("artifactType"), fields.child("config").text("mediaType")
    listed = [child.text("mediaType") for child in fields.children("manifests")]
    if any(one.startswith(_BUILDKIT) for one in (config, *listed)):
        raise UntrustedDataError(
            f"{what} is a cache of BuildKit, which mbuild cannot read",
            code="not-a-cache",
            hint="name another tag for mbuild's cache",
        )
    if kind.startswith(_ARTIFACTS):
        return parse_artifact(data, what)
    if named := dict(fields.pairs("annotations")).get(INDEX_ANNOTATION):
        return _index_of_plain_image(fields, named, what)
    if kind or not (listed or fields.has("manifests") or config in mediatype.CONFIGS):
        raise UntrustedDataError(
            f"{what} is neither a cache nor an image: it is of the type {(kind or config)[:100]!r}",
            code="not-a-cache",
            hint="check the name, or name another tag for mbuild's cache",
        )
    parsed = parse_manifest(data, f"the manifest of {what}")
    if isinstance(parsed, Manifest):
        check_is_image(what, parsed)
    return parsed


def without_cache(what: str) -> UntrustedDataError:
    """The error for an image that is nothing more."""
    return UntrustedDataError(
        f"{what} is an image without a cache of mbuild in it",
        code="not-a-cache",
        hint="name the tag that --cache-to type=registry wrote to, or build the image with --cache-to type=inline",
    )


def _index_of_plain_image(fields: JsonObject, named: str, what: str) -> ArtifactIndexBlob:
    layers = fields.children("layers")
    if layers:
        first = Descriptor.from_json(layers[0])
        if first.digest == named and 0 < first.size <= MAX_BYTES:
            return ArtifactIndexBlob(first.digest, first.size)
    raise UntrustedDataError(
        f"{what} is no cache of mbuild: its manifest names no index",
        code="cache-invalid",
        hint="name a place that mbuild wrote a cache to",
    )
