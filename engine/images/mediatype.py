"""The media types of images. Source: OCI image spec, media-types.md; Docker's image manifest v2, schema 2."""

from __future__ import annotations

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})

ACCEPT = ", ".join((OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST))
"""What a registry is asked for."""

_AS_OCI = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": OCI_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.diff.tar.zstd": OCI_LAYER_ZSTD,
    # Foreign layers are in our store like any other once they are pulled, and no URL goes with them.
    "application/vnd.docker.image.rootfs.foreign.diff.tar": OCI_LAYER,
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": OCI_LAYER_GZIP,
    "application/vnd.oci.image.layer.nondistributable.v1.tar": OCI_LAYER,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": OCI_LAYER_GZIP,
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": OCI_LAYER_ZSTD,
}
"""An OCI manifest lists layers by OCI's types; the bytes are the same."""


def as_oci(media_type: str) -> str:
    """The type that OCI has for layers of a type of Docker's; any other as it is."""
    return _AS_OCI.get(media_type, media_type)


def layer_type(start: bytes) -> str:
    """The media type of a layer that begins with these bytes (four are enough)."""
    if start.startswith(b"\x1f\x8b"):
        return OCI_LAYER_GZIP
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return OCI_LAYER_ZSTD
    return OCI_LAYER
