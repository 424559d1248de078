"""What there is to say about an image, in the store or in a registry."""

from __future__ import annotations

import json
from collections.abc import Callable

from cache.names import NamedImage
from cache.store import Store
from engine.images.config import MAX_CONFIG_BYTES, ImageConfiguration
from engine.images.descriptor import Descriptor
from engine.images.image import check_is_image, resolved
from engine.images.manifest import Index, Manifest, parse_manifest
from engine.images.place import RegistryPlace
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.selection import select
from engine.imagestore import find
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.platform import Platform, native
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Described:
    """One image for one platform, and the index that it was found in."""

    name: str
    """Canonical."""
    digest: str
    """Of its manifest."""
    media_type: str
    config: Descriptor
    layers: tuple[tuple[Descriptor, str], ...]
    """Each with its diff id, lowest first."""
    configuration: ImageConfiguration
    raw_configuration: bytes
    index: Index | None = None
    index_digest: str = ""

    @property
    def size(self) -> int:
        """Bytes of the layers as they are stored."""
        return sum(layer.size for layer, _ in self.layers)

    def to_value(self) -> dict[str, object]:
        """As JSON."""
        platform, index = self.configuration.platform, self.index
        listed = index and {
            "digest": self.index_digest,
            "media_type": index.media_type,
            "manifests": [entry.to_value() for entry in index.manifests],
        }
        return {
            "name": self.name,
            "digest": self.digest,
            "media_type": self.media_type,
            "platform": str(platform) if platform else None,
            "size": self.size,
            "config_digest": self.config.digest,
            "layers": [
                {"digest": layer.digest, "diff_id": diff_id, "media_type": layer.media_type, "size": layer.size}
                for layer, diff_id in self.layers
            ],
            "configuration": json.loads(self.raw_configuration),
            "index": listed,
        }


class _Kept:
    """An image of the store, as far as a description needs it."""

    def __init__(self, store: Store, image: NamedImage) -> None:
        self._blobs = store.blobs
        self._image = image

    def root(self) -> Descriptor:
        return Descriptor(self._image.media_type, self._image.digest, self._image.size)

    def manifest(self, descriptor: Descriptor) -> bytes:
        return self._blobs.read(descriptor.digest)

    def configuration(self, descriptor: Descriptor) -> bytes:
        return self._blobs.read(descriptor.digest)


def describe_stored(store: Store, name: str, platform: Platform | None) -> Described:
    """An image of the store. Of an index the image for `platform`; without one that for this machine, or the first.

    Raises UsageError (`image-unknown`), StoreError, TransferError (`platform-missing`).
    """
    image = find(store, name)
    return _describe(image.name, _Kept(store, image), platform)


def describe_remote(client: RegistryClient, reference: Reference, platform: Platform | None) -> Described:
    """An image in a registry; no layer is read. Raises TransferError, UntrustedDataError."""
    return _describe(str(reference), RegistryPlace(lambda: client, reference), platform)


def _describe(name: str, place: _Kept | RegistryPlace, platform: Platform | None) -> Described:
    root = place.root()
    top = parse_manifest(place.manifest(root), f"the manifest of {name}")
    index = top if isinstance(top, Index) else None
    _, manifest, data = _select(name, root, index, platform, place.manifest)
    check_is_image(name, manifest)
    if manifest.config.size > MAX_CONFIG_BYTES:
        raise UntrustedDataError(f"the configuration of {name} is too large", code="config-invalid")
    raw = place.configuration(manifest.config)
    image = resolved(name, data, raw)
    return Described(
        name=name,
        digest=image.digest,
        media_type=manifest.media_type,
        config=manifest.config,
        layers=tuple((layer.descriptor, layer.diff_id) for layer in image.layers),
        configuration=image.configuration,
        raw_configuration=raw,
        index=index,
        index_digest=root.digest if index else "",
    )


def _select(
    name: str, root: Descriptor, index: Index | None, platform: Platform | None, read: Callable[[Descriptor], bytes]
) -> tuple[Descriptor, Manifest, bytes]:
    try:
        return select(root, platform or native(), read, name)
    except TransferError as error:
        entries = index.manifests if index is not None and platform is None else ()
        first = next((entry for entry in entries if entry.platform and entry.platform.os != "unknown"), None)
        if error.code != "platform-missing" or first is None:
            raise
        return select(first, native(), read, name)
