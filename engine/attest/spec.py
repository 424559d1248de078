"""--attest: what is to be said about an image."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from machinefile.values import dataclass

DEFAULT_BUILDER = "https://pypi.org/project/machinefile/"
"""The builder id of an mbuild that nobody gave another one."""


class ProvenanceMode(Enum):
    """How much a provenance says. Source: BuildKit's attestations/slsa-provenance.md."""

    MIN = "min"
    """Nothing that a user of the image may not know."""
    MAX = "max"
    """Also the Machinefile, the values of build arguments, the steps, and what ran them."""


@dataclass(frozen=True, slots=True)
class AttestSpec:
    """What was asked for with --attest and its shorter forms."""

    provenance: ProvenanceMode | None = None
    builder_id: str = DEFAULT_BUILDER
    sbom: bool = False
    key: Path | None = None
    """The private key that signs them."""

    @property
    def wanted(self) -> bool:
        """Whether there is anything to say."""
        return self.provenance is not None or self.sbom


NO_ATTESTATIONS = AttestSpec()
