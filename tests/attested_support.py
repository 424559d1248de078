"""Builds with a provenance, and verifies them in stores of their own, with fakes in the place of machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache.store import Store
from engine.attest.attached import Attached, attached_to
from engine.attest.spec import AttestSpec, ProvenanceMode
from engine.driver import Driver
from engine.images.source import ImageSources
from engine.verify.attested import Belief, Claim, verify_attested
from engine.verify.images import Image
from engine.verify.verifier import Verified, Verifier
from machinefile.platform import native
from mbuild.arguments import Parser, add_build_options
from mbuild.attested import add_attestation_options, attested_request

if TYPE_CHECKING:
    from conftest import Workshop

NAME = "docker.io/library/app:1"
UNSIGNED = Belief(None, unsigned=True)


class Bench:
    """Builds with a provenance, and verifies it in stores of its own."""

    def __init__(self, workshop: Workshop, folder: Path) -> None:
        self.workshop = workshop
        self.folder = folder
        folder.mkdir()
        self.empty = folder / "empty"
        self.empty.mkdir()
        self._count = 0

    def build(self, text: str, mode: ProvenanceMode = ProvenanceMode.MAX, **changes: Any) -> str:
        changes.setdefault("attest", AttestSpec(mode))
        options = changes.pop("options", {})
        request = self.workshop.request(text, names=(NAME,), ignore="*.md\n", **options)
        return self.workshop.driver.build(replace(request, **changes)).digest

    def verify(self, *words: str, belief: Belief = UNSIGNED, found: Attached | None = None) -> tuple[Claim, Verified]:
        parser = Parser()
        add_build_options(parser)
        add_attestation_options(parser)
        parser.set_defaults(context=None)
        options = parser.parse_args(list(words))
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        store = self.workshop.store

        def find(image: Image) -> Attached:
            return found or self.attached(image.image.digest)

        with Verifier(self.opened, folder, store.vm_folder) as verifier:
            return verify_attested(
                verifier,
                NAME,
                native(),
                store,
                belief,
                find,
                lambda claim: attested_request(claim, options, self.empty),
            )

    def attached(self, digest: str) -> Attached:
        with ImageSources(self.folder) as source:
            return attached_to(NAME, digest, self.workshop.store, source)

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Driver]:
        shop = self.workshop
        with Store(folder) as store:
            yield Driver(store, shop.source, lambda: shop.sandbox, shop.events.append, shop.cancelled)
