"""A descriptor: the type, digest and size of a blob that stands elsewhere. Source: OCI image spec, descriptor.md."""

from __future__ import annotations

from engine.images.jsonvalue import JsonObject
from machinefile.imageconfig import Pairs
from machinefile.platform import Platform
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob."""

    media_type: str
    """Empty where the source gave none."""
    digest: str
    size: int
    """Bytes."""
    platform: Platform | None = None
    """In an index: what the image runs on."""
    annotations: Pairs = ()
    """Sorted by name."""
    urls: tuple[str, ...] = ()
    """Where else a foreign layer can be had."""
    os_version: str = ""
    """In an index: with `os_features`, more of what the image runs on (Windows)."""
    os_features: tuple[str, ...] = ()
    artifact_type: str = ""
    """In a list of referrers: what kind of thing the manifest is."""

    @classmethod
    def from_json(cls, fields: JsonObject) -> Descriptor:
        """Read a descriptor. Raises UntrustedDataError with the code of `fields`."""
        size = fields.integer("size")
        if size < 0:
            raise fields.wrong("size", f"is negative: {size}")
        runs_on = fields.child("platform")
        return cls(
            media_type=fields.text("mediaType"),
            digest=fields.digest("digest"),
            size=size,
            platform=_platform(runs_on),
            annotations=fields.pairs("annotations"),
            urls=fields.texts("urls"),
            os_version=runs_on.text("os.version"),
            os_features=runs_on.texts("os.features"),
            artifact_type=fields.text("artifactType"),
        )

    def to_value(self) -> dict[str, object]:
        """As JSON has it, fields in Docker's order."""
        value: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(sorted(self.annotations))
        if self.platform is not None:
            value["platform"] = self._platform_value(self.platform)
        return value

    def _platform_value(self, platform: Platform) -> dict[str, object]:
        value: dict[str, object] = {"architecture": platform.architecture, "os": platform.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if platform.variant:
            value["variant"] = platform.variant
        return value

    def annotation(self, name: str) -> str:
        """An annotation's value, or the empty string."""
        return dict(self.annotations).get(name, "")


def _platform(fields: JsonObject) -> Platform | None:
    system, architecture, variant = (fields.text(name) for name in ("os", "architecture", "variant"))
    if not system or not architecture:
        return None
    try:
        return Platform.parse("/".join(part for part in (system, architecture, variant) if part))
    except ValueError:
        return Platform(system, architecture, variant)  # equal to nothing that can be asked for
