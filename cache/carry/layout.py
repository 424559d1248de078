"""The index.json of an OCI layout with caches in it, and perhaps images. Source: OCI image spec, image-layout.md."""

from __future__ import annotations

import json
from collections.abc import Iterator

from cache.blobs import digest_of
from cache.carry.artifact import ARTIFACT_TYPE, MANIFEST_TYPE
from cache.carry.entry import is_digest
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
"""The content of the file `oci-layout`."""
DEFAULT_TAG = "latest"

_REF_NAME = "org.opencontainers.image.ref.name"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True)
class Listing:
    """Which manifests a layout has."""

    manifests: tuple[dict[str, object], ...] = ()
    """Their descriptors, as they were found: those of others go back as they came."""

    @classmethod
    def parse(cls, data: bytes, what: str) -> Listing:
        """Raises UntrustedDataError (`cache-invalid`)."""
        match parsed(data):
            case {"manifests": list(found)} if len(_descriptors(found)) == len(found):
                return cls(tuple(_descriptors(found)))
        raise UntrustedDataError(
            f"{what} is no cache of mbuild: its index.json is damaged, or not that of an OCI layout",
            code="cache-invalid",
            hint="name another folder, or remove this one",
        )

    def find(self, tag: str) -> str | None:
        """The digest of the manifest with that tag; where none is asked for, `latest` or the only one without any."""
        for one in self.manifests:
            if _tag(one) == (tag or DEFAULT_TAG):
                return str(one["digest"])
        if not tag and len(self.manifests) == 1 and not _tag(self.manifests[0]):
            return str(self.manifests[0]["digest"])
        return None

    def replaced(self, tag: str, manifest: bytes) -> Listing:
        """With this manifest in the place of what `find` finds."""
        mine, name = self.find(tag), tag or DEFAULT_TAG
        kept = tuple(one for one in self.manifests if _tag(one) != name and (_tag(one) or one["digest"] != mine))
        new: dict[str, object] = {
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "digest": digest_of(manifest),
            "size": len(manifest),
            "annotations": {_REF_NAME: name},
        }
        return Listing((*kept, new))

    def digests(self) -> Iterator[str]:
        """Of its manifests."""
        return (str(one["digest"]) for one in self.manifests)

    def to_json(self) -> bytes:
        """The content of index.json."""
        document = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": self.manifests}
        return json.dumps(document, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class References:
    """What a manifest or an index speaks of, by digest."""

    manifests: tuple[str, ...]
    blobs: tuple[str, ...]

    @classmethod
    def parse(cls, data: bytes) -> References | None:
        """None for what is no manifest, of whatever kind."""
        document = parsed(data)
        if not isinstance(document, dict):
            return None
        blobs = [*_descriptors(document.get("layers")), *_descriptors([document.get("config")])]
        manifests = _descriptors(document.get("manifests"))
        return cls(*(tuple(str(one["digest"]) for one in found) for found in (manifests, blobs)))


def parsed(data: bytes) -> object:
    """JSON; None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _descriptors(value: object) -> list[dict[str, object]]:
    found = value if isinstance(value, list) else []
    return [one for one in found if isinstance(one, dict) and is_digest(one.get("digest"))]


def _tag(descriptor: dict[str, object]) -> str:
    match descriptor.get("annotations"):
        case {"org.opencontainers.image.ref.name": str(name)}:
            return name
    return ""
