"""Manifests and indexes, OCI's and Docker's. Source: OCI image spec, manifest.md and image-index.md."""

from __future__ import annotations

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.jsonvalue import JsonObject, dump
from machinefile.errors import UntrustedDataError
from machinefile.imageconfig import Pairs
from machinefile.values import dataclass

MAX_MANIFEST_BYTES = 4 << 20
"""What registries and containerd accept too."""
MAX_LAYERS = 1000

_INVALID = "manifest-invalid"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    """Lowest first."""
    media_type: str = mediatype.OCI_MANIFEST
    annotations: Pairs = ()
    artifact_type: str = ""
    """Of what is no image."""
    subject: Descriptor | None = None
    """The manifest that this one is about."""

    def to_json(self) -> bytes:
        """The bytes that its digest is of; the same for the same manifest."""
        value: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            **({"artifactType": self.artifact_type} if self.artifact_type else {}),
            "config": self.config.to_value(),
            "layers": [layer.to_value() for layer in self.layers],
        }
        if self.subject is not None:
            value["subject"] = self.subject.to_value()
        return _with_annotations(value, self.annotations)


@dataclass(frozen=True, slots=True)
class Index:
    """Manifests to choose from, usually one a platform."""

    manifests: tuple[Descriptor, ...]
    media_type: str = mediatype.OCI_INDEX
    annotations: Pairs = ()

    def to_json(self) -> bytes:
        """The bytes that its digest is of; the same for the same index."""
        value: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "manifests": [manifest.to_value() for manifest in self.manifests],
        }
        return _with_annotations(value, self.annotations)


def parse_manifest(data: bytes, where: str = "the manifest") -> Manifest | Index:
    """Read a manifest or an index; which of them is seen from its shape, as `mediaType` may be missing.

    `where` names it in messages. Raises UntrustedDataError: `manifest-invalid`, `manifest-ambiguous` (both at once:
    two readers would see two images, CVE-2021-41190), `manifest-unsupported` (Docker's schema 1).
    """
    fields = JsonObject.parse(data, where, _INVALID, MAX_MANIFEST_BYTES)
    if fields.has("fsLayers") or fields.integer("schemaVersion") == 1:
        raise UntrustedDataError(
            f"{where} has Docker's schema 1, which no registry should serve any more",
            code="manifest-unsupported",
            hint="push the image again with a current tool",
        )
    _refuse_ambiguity(fields)
    if fields.has("manifests") or fields.text("mediaType") in mediatype.INDEXES:
        return _index(fields)
    if fields.has("config"):
        return _manifest(fields)
    raise UntrustedDataError(f"{where} is neither an image manifest nor an index", code=_INVALID)


def parse_index(data: bytes, where: str = "the index") -> Index:
    """Read what must be an index. Raises as `parse_manifest` does."""
    parsed = parse_manifest(data, where)
    if not isinstance(parsed, Index):
        raise UntrustedDataError(f"{where} is a manifest, not an index", code=_INVALID)
    return parsed


def _refuse_ambiguity(fields: JsonObject) -> None:
    declared = fields.text("mediaType")
    like_manifest = fields.has("layers") or fields.has("config") or declared in mediatype.MANIFESTS
    like_index = fields.has("manifests") or declared in mediatype.INDEXES
    if like_manifest and like_index:
        raise UntrustedDataError(
            f"{fields.where} is a manifest and an index at once",
            code="manifest-ambiguous",
            hint="it was made to mean two things; do not trust its source",
        )


def _manifest(fields: JsonObject) -> Manifest:
    layers = fields.children("layers")
    if len(layers) > MAX_LAYERS:
        raise fields.wrong("layers", f"has {len(layers)} entries; at most {MAX_LAYERS} are allowed")
    config = Descriptor.from_json(fields.child("config"))
    docker = config.media_type == mediatype.DOCKER_CONFIG
    return Manifest(
        config=config,
        layers=tuple(Descriptor.from_json(layer) for layer in layers),
        media_type=fields.text("mediaType") or (mediatype.DOCKER_MANIFEST if docker else mediatype.OCI_MANIFEST),
        annotations=fields.pairs("annotations"),
        artifact_type=fields.text("artifactType"),
        subject=Descriptor.from_json(fields.child("subject")) if fields.has("subject") else None,
    )


def _index(fields: JsonObject) -> Index:
    manifests = tuple(Descriptor.from_json(entry) for entry in fields.children("manifests"))
    docker = any(entry.media_type == mediatype.DOCKER_MANIFEST for entry in manifests)
    return Index(
        manifests=manifests,
        media_type=fields.text("mediaType") or (mediatype.DOCKER_INDEX if docker else mediatype.OCI_INDEX),
        annotations=fields.pairs("annotations"),
    )


def _with_annotations(value: dict[str, object], annotations: Pairs) -> bytes:
    if annotations:
        value["annotations"] = dict(sorted(annotations))
    return dump(value)
