"""A cache as an OCI artifact: the manifest that lists its blobs, and the index as a blob.

    manifest       artifactType application/vnd.mbuild.cache.v1, config the empty object
    layers[0]      the index (cache/carry/index.py), compressed with zstd
    layers[1:]     every other blob, by digest, so that who copies or collects artifacts copies and keeps them all

Equal indexes give equal bytes. Source: OCI image spec, manifest.md, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import hashlib
import json

from cache.carry.entry import is_digest
from cache.carry.index import MAX_BYTES, MEDIA_TYPE, CacheIndex, parse_index
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.mbuild.cache.v1"
EMPTY_CONFIG_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
EMPTY_DIGEST = "sha256:" + hashlib.sha256(EMPTY).hexdigest()
MOUNT_TYPE = "application/vnd.mbuild.cache.mount.v1+zstd"
"""A cache mount's disk."""
RECORDS_TYPE = "application/vnd.mbuild.cache.records.v1+json+zstd"
"""A pack of records."""
MAX_MANIFEST_BYTES = 4 << 20
"""What registries take at least. Source: OCI distribution spec, "Pushing Manifests"."""

_LEVEL = 3


@dataclass(frozen=True, slots=True)
class ArtifactIndexBlob:
    """Where a cache's index lies."""

    digest: str
    size: int
    """Bytes, compressed."""


def pack_index(index: CacheIndex) -> bytes:
    """The index as a blob."""
    import zstandard

    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(index.to_json())


def unpack_index(data: bytes, what: str) -> CacheIndex:
    """Read such a blob. Takes no more memory than MAX_BYTES asks for, whatever is in it.

    Raises UntrustedDataError (`cache-invalid`, `cache-version`); `what` names the place to the user.
    """
    import zstandard

    try:
        # A frame says how large its content is, and what says nothing was not written by pack_index.
        if not 0 <= zstandard.frame_content_size(data) <= MAX_BYTES:
            raise _invalid(what, "its index is too large")
        document = zstandard.ZstdDecompressor(max_window_size=MAX_BYTES).decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise _invalid(what, "its index is damaged") from error
    return parse_index(document, what)


def manifest_of(index: CacheIndex, packed: bytes) -> bytes:
    """The manifest of a cache whose index is that blob (of `pack_index`)."""
    own = "sha256:" + hashlib.sha256(packed).hexdigest()
    types = {digest: layer.media_type for digest, layer in index.layers().items()}
    types |= dict.fromkeys(index.packs, RECORDS_TYPE) | {mount.digest: MOUNT_TYPE for mount in index.mounts.values()}
    blobs = [_descriptor(types[digest], digest, size) for digest, size in sorted(index.blobs().items())]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _descriptor(EMPTY_CONFIG_TYPE, EMPTY_DIGEST, len(EMPTY)),
        "layers": [_descriptor(MEDIA_TYPE, own, len(packed)), *blobs],
    }
    return json.dumps(manifest, separators=(",", ":")).encode()


def parse_artifact(data: bytes, what: str) -> ArtifactIndexBlob:
    """Where the index is that a manifest names. Raises UntrustedDataError (`cache-invalid`, `cache-version`)."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise _invalid(what, "its manifest is too large")
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError):
        raise _invalid(what, "its manifest is no JSON") from None
    match manifest:
        case {
            "artifactType": str(kind),
            "layers": [{"mediaType": str(media_type), "digest": str(digest), "size": int(size)}, *_],
        } if kind == ARTIFACT_TYPE and media_type == MEDIA_TYPE and is_digest(digest) and 0 < size <= MAX_BYTES:
            return ArtifactIndexBlob(digest, size)
        case {"artifactType": str(kind)} if kind == ARTIFACT_TYPE:
            raise _invalid(what, "its manifest names no index")
        case {"artifactType": str(kind)} if kind.startswith(ARTIFACT_TYPE.removesuffix("1")):
            raise UntrustedDataError(
                f"{what} is a cache of another version of mbuild ({kind[:80]!r})",
                code="cache-version",
                hint="name another place for this version's cache",
            )
    raise _invalid(what, "there is something else, an image perhaps")


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _invalid(what: str, why: str) -> UntrustedDataError:
    return UntrustedDataError(
        f"{what} is no cache of mbuild: {why}", code="cache-invalid", hint="name a place that mbuild wrote a cache to"
    )
