"""Makes the attestations that a build, or a user, asks for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from cache.results import Layer
from cache.store import Store
from engine.attest.attach import attestation
from engine.attest.dsse import AttestationSigner
from engine.attest.packages import Inventory, inventory
from engine.attest.provenance import reduced, written_as
from engine.attest.spdx import document
from engine.attest.spec import AttestSpec
from engine.attest.statement import PROVENANCE_TYPE, SPDX_TYPE, Predicate, Statement, subjects_of
from engine.attest.version import VERSION
from engine.images.config import parse_configuration
from engine.images.descriptor import Descriptor
from engine.images.reference import Reference
from engine.layerstore import LayerStore
from engine.output.annotations import Annotations
from engine.output.image import BuiltImage
from engine.output.index import Built, BuiltAttestation, BuiltIndex, with_attestations
from engine.output.kinds import OutputSpec
from machinefile.platform import Platform
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class ImageToAttest:
    """An image of which something is to be said."""

    line: Descriptor
    """Its manifest."""
    platform: Platform | None
    layers: tuple[Layer, ...]
    config: Descriptor
    predicate: Predicate | None
    """Its provenance, in mode max."""


class Attester:
    """Says what was asked for, signed if there is a key."""

    def __init__(
        self, spec: AttestSpec, store: Store, layers: LayerStore, cancelled: threading.Event | None = None
    ) -> None:
        """Raises UsageError (`signing-key`)."""
        self._spec = spec
        self._store = store
        self._layers = layers
        self._cancelled = cancelled
        self._signer = AttestationSigner.from_file(spec.key) if spec.key is not None else None
        self._made: dict[tuple[str, tuple[str, ...]], BuiltAttestation] = {}
        """By the image and its names. What goes to several places is signed once: not every signature is the same."""
        self._found: dict[tuple[str, ...], Inventory] = {}
        """By diff ids: however its layers are compressed, an image is read once."""

    def build(
        self,
        built: Built,
        names: Sequence[str],
        output: OutputSpec | None = None,
        *,
        predicates: Mapping[str, Predicate],
        annotations: Annotations,
    ) -> BuiltIndex:
        """What was built, with its attestations, in the form that an output gave it. `predicates` has provenances by
        the digests of configurations, which all forms of an image share. Raises StoreError, TransferError,
        UntrustedDataError, InterruptedBuildError."""
        made = [self.image(_of_built(image, predicates, output), names) for image in built.images]
        return with_attestations(built, made, annotations, self._store)

    def image(self, image: ImageToAttest, names: Sequence[str]) -> BuiltAttestation:
        """What is said about one image. Raises as `build`."""
        key = (image.line.digest, tuple(names))
        if key not in self._made:
            self._made[key] = self._say(image, names)
        return self._made[key]

    def _say(self, image: ImageToAttest, names: Sequence[str]) -> BuiltAttestation:
        digest, subjects = image.line.digest, subjects_of(image.line.digest, names, image.platform)
        statements = []
        if self._spec.provenance is not None and image.predicate is not None:
            said = reduced(image.predicate, self._spec.provenance)
            statements.append(Statement(PROVENANCE_TYPE, said, subjects))
        if self._spec.sbom:
            name = Reference.parse(names[0]).short if names else "image"
            found = self._packages(image.layers)
            created = parse_configuration(self._store.blobs.read(image.config.digest)).created
            listed = document(found, name=name, digest=digest, created=created, tool=f"mbuild-{VERSION}")
            statements.append(Statement(SPDX_TYPE, listed, subjects))
        return attestation(image.line, statements, self._signer, self._store)

    def _packages(self, layers: tuple[Layer, ...]) -> Inventory:
        key = tuple(layer.diff_id for layer in layers)
        if key not in self._found:
            self._found[key] = inventory(self._layers.view(layers), self._layers.files(layers), self._cancelled)
        return self._found[key]


def _of_built(image: BuiltImage, predicates: Mapping[str, Predicate], output: OutputSpec | None) -> ImageToAttest:
    config = image.manifest.config
    line = Descriptor(image.media_type, image.digest, image.size)
    predicate = predicates.get(config.digest)
    if predicate is not None and output is not None:
        predicate = written_as(predicate, output, image.platform)
    return ImageToAttest(line, image.platform, image.layers, config, predicate)
