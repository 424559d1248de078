"""An image whose manifest and configuration are known and checked; its layers still lie where they are."""

from __future__ import annotations

from engine.images import mediatype
from engine.images.config import ImageConfiguration, parse_configuration
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest, parse_manifest
from machinefile.errors import UntrustedDataError
from machinefile.imageconfig import ImageConfig
from machinefile.platform import Platform
from machinefile.steps import SCRATCH, BaseImage
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class LayerDescriptor:
    """A layer's blob, and what its tar must have as digest."""

    descriptor: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """One image for one platform."""

    reference: str
    """As the user wrote it."""
    digest: str
    """Of the manifest for the platform; empty for scratch."""
    manifest: Manifest
    configuration: ImageConfiguration
    layers: tuple[LayerDescriptor, ...]
    """Lowest first."""
    manifest_bytes: bytes
    configuration_bytes: bytes
    root: str = ""
    """The digest of what the name itself stands for: the manifest, or an index that leads to it."""

    @property
    def base(self) -> BaseImage:
        """What resolving a Machinefile needs of it."""
        return BaseImage(self.digest, self.configuration.config, self.configuration.platform)


def resolved(reference: str, manifest_bytes: bytes, configuration_bytes: bytes, root: str = "") -> ResolvedImage:
    """Put an image together from verified bytes; `root` is the digest of the index it was found in, if it was.

    Raises UntrustedDataError: `not-an-image` (something else that registries hold), `layers-mismatch`,
    `manifest-invalid`, `config-invalid`.
    """
    manifest = parse_manifest(manifest_bytes, f"the manifest of {reference}")
    if not isinstance(manifest, Manifest):
        raise UntrustedDataError(f"{reference} is an index, not an image", code="manifest-invalid")
    check_is_image(reference, manifest)
    configuration = parse_configuration(configuration_bytes, f"the configuration of {reference}")
    if len(configuration.diff_ids) != len(manifest.layers):
        raise UntrustedDataError(
            f"{reference} has {len(manifest.layers)} layers, its configuration {len(configuration.diff_ids)}",
            code="layers-mismatch",
            hint="the image is damaged: push it again",
        )
    pairs = zip(manifest.layers, configuration.diff_ids, strict=True)
    digest = digest_of(manifest_bytes)
    return ResolvedImage(
        reference=reference,
        digest=digest,
        manifest=manifest,
        configuration=configuration,
        layers=tuple(LayerDescriptor(descriptor, diff_id) for descriptor, diff_id in pairs),
        manifest_bytes=manifest_bytes,
        configuration_bytes=configuration_bytes,
        root=root or digest,
    )


def check_is_image(reference: str, manifest: Manifest) -> None:
    """Raises UntrustedDataError (`not-an-image`) for a chart, a signature or another artifact."""
    kind = manifest.config.media_type
    if kind and kind not in mediatype.CONFIGS:
        raise UntrustedDataError(
            f"{reference} is not an image: its configuration is of the type {kind[:100]!r}",
            code="not-an-image",
            hint="check the name; charts, signatures and other artifacts cannot be a base",
        )


def empty_image(platform: Platform) -> ResolvedImage:
    """Scratch: no layers, and a configuration that says only what it runs on."""
    configuration = ImageConfiguration(ImageConfig(), platform.architecture, platform.os, platform.variant)
    data = configuration.to_json()
    manifest = Manifest(Descriptor(mediatype.OCI_CONFIG, digest_of(data), len(data)), ())
    return ResolvedImage(SCRATCH, "", manifest, configuration, (), manifest.to_json(), data)
