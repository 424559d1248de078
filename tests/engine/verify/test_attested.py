"""Images that are built again from their provenance alone, with fakes in the place of machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from layer_support import file_item, tar_of

from cache.store import Store
from engine.attest.attached import Attached, Found, attached_to
from engine.attest.spec import AttestSpec, ProvenanceMode
from engine.attest.statement import PROVENANCE_TYPE, Statement, Subject
from engine.driver import Driver
from engine.epoch import Epoch
from engine.images.source import ImageSources
from engine.output.annotations import parse_annotations
from engine.remote.contexts import ContextKind, NamedContext, parse_context
from engine.secrets import Secrets
from engine.verify.attested import Belief, Claim, verify_attested
from engine.verify.images import Image
from engine.verify.verifier import Verified, Verifier
from machinefile.clocks import Clock
from machinefile.errors import UntrustedDataError, UsageError
from machinefile.platform import native
from machinefile.steps import NetworkMode
from mbuild.arguments import Parser, add_build_options
from mbuild.attested import add_attestation_options, attested_request

if TYPE_CHECKING:
    from conftest import Workshop

NAME = "docker.io/library/app:1"
TEXT = """FROM base AS made
ARG WORD
RUN --mount=type=bind,target=/src write first $WORD
FROM base
COPY a /
COPY --from=made /first /
LABEL own=1
"""
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

    def build(self, text: str = TEXT, mode: ProvenanceMode = ProvenanceMode.MAX, **changes: Any) -> str:
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


@pytest.fixture
def bench(workshop: Workshop, tmp_path: Path) -> Bench:
    workshop.write("a")
    return Bench(workshop, tmp_path / "verify")


def test_an_image_is_built_again_from_its_provenance(bench: Bench, workshop: Workshop) -> None:
    digest = bench.build(options={"build_args": (("WORD", "w"),)})
    runs = len(workshop.sandbox.executions)
    claim, verified = bench.verify(str(workshop.context))
    assert verified.verification.reproducible
    assert (claim.subject, claim.signed_by, verified.verification.second) == (digest, "", digest)
    assert len(workshop.sandbox.executions) > runs, "the steps were run again"


def test_all_that_changes_an_image_is_told(bench: Bench, workshop: Workshop) -> None:
    """Each of these makes another image of the same file; the provenance has to have them all."""
    (workshop.context / "a").chmod(0o600)
    usual = bench.build(options={"build_args": (("WORD", "w"),)})
    options = {
        "build_args": (("WORD", "other"), ("SOURCE_DATE_EPOCH", "1700000000")),
        "labels": (("l", "m"),),
        "network": NetworkMode.NONE,
        "clock": Clock.FROZEN,
        "hosts": (("h", "10.0.0.1"),),
        "target": "1",
    }
    other = bench.build(
        options=options,
        epoch=Epoch(1700000000),
        git_modes=True,
        keep_times=True,
        annotations=parse_annotations(["k=v", "org.opencontainers.image.created="]),
    )
    assert other != usual
    _, verified = bench.verify(str(workshop.context))
    assert (verified.verification.second, verified.verification.reproducible) == (other, True)
    first, second = (one.clock for one in workshop.sandbox.executions[-2:])
    assert first == second is not None


def test_files_that_no_step_takes_and_the_machinefile_do_not_count(bench: Bench, workshop: Workshop) -> None:
    bench.build("FROM base\nCOPY . /all/\n")
    workshop.write("note.md")
    assert bench.verify(str(workshop.context))[1].verification.reproducible, "its .dockerignore counts"
    workshop.write("b")
    with pytest.raises(UsageError, match="is not what the image was made from") as caught:
        bench.verify(str(workshop.context))
    assert caught.value.code == "attestation-context"


def test_what_a_mount_of_the_context_shows_counts(bench: Bench, workshop: Workshop) -> None:
    bench.build()
    workshop.write("b")
    with pytest.raises(UsageError) as caught:
        bench.verify(str(workshop.context))
    assert caught.value.code == "attestation-context"


def test_a_context_that_is_needed_is_named(bench: Bench, workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "x").write_text("x")
    context = parse_context(f"extra={tmp_path / 'extra'}")
    options = {"contexts": frozenset({"extra"})}
    bench.build("FROM base\nCOPY --from=extra x /\n", contexts=(context,), options=options)
    with pytest.raises(UsageError, match="'extra'") as caught:
        bench.verify()
    assert caught.value.code == "attestation-context-missing"
    given = f"--build-context=extra={tmp_path / 'extra'}"
    assert bench.verify(given)[1].verification.reproducible, "the main context is not needed"
    with pytest.raises(UsageError, match="no folder of that name"):
        bench.verify(given, f"--build-context=more={tmp_path / 'extra'}")
    (tmp_path / "extra" / "x").chmod(0o700)
    with pytest.raises(UsageError) as caught:
        bench.verify(given)
    assert caught.value.code == "attestation-context"
    bench.build()
    with pytest.raises(UsageError) as caught:
        bench.verify()
    assert caught.value.code == "attestation-context-missing"


def test_an_image_as_a_context_is_taken_from_the_provenance(bench: Bench, workshop: Workshop) -> None:
    options = {"contexts": frozenset({"other"}), "image_contexts": frozenset({"other"})}
    bench.build(
        "FROM other\nCOPY <<x /x\nhi\nx\n",
        contexts=(NamedContext("other", ContextKind.IMAGE, "base"),),
        options=options,
    )
    claim, verified = bench.verify()
    assert verified.verification.reproducible
    assert [one.name for one in claim.recipe.took.images] == ["other"]


def test_a_base_that_was_moved_is_taken_as_it_was(bench: Bench, workshop: Workshop) -> None:
    digest = bench.build("FROM base\nCOPY <<x /x\nhi\nx\n")
    workshop.source.add("base", [tar_of(file_item("new", b"x"))])
    assert bench.verify()[1].verification.second == digest


def test_what_is_not_told_has_to_be_given(bench: Bench, workshop: Workshop) -> None:
    secrets = Secrets((("pw", b"hunter2hunter2"),))
    options = {"build_args": (("API_TOKEN", "t"),), "labels": (("l", "is hunter3hunter3"),)}
    text = "FROM base\nARG API_TOKEN\nRUN write t $API_TOKEN\n"
    hidden = Secrets((*secrets.values, ("other", b"hunter3hunter3")))
    bench.build(text, secrets=Secrets(), options={**options, "labels": ()})
    with pytest.raises(UsageError, match="API_TOKEN") as caught:
        bench.verify()
    assert caught.value.code == "attestation-values"
    assert bench.verify("--build-arg=API_TOKEN=t")[1].verification.reproducible
    assert not bench.verify("--build-arg=API_TOKEN=u")[1].verification.reproducible
    with pytest.raises(UsageError, match="--build-arg WORD"):
        bench.verify("--build-arg=API_TOKEN=t", "--build-arg=WORD=x")
    bench.build("FROM base\nRUN write t u\n", secrets=hidden)
    with pytest.raises(UsageError, match="other, pw") as caught:
        bench.verify()
    assert caught.value.code == "attestation-values"


def test_a_masked_machinefile_is_to_be_named(bench: Bench, tmp_path: Path) -> None:
    text = "FROM base\nRUN write a https://me:word@host/\n"
    bench.build(text)
    with pytest.raises(UsageError) as caught:
        bench.verify()
    assert caught.value.code == "attestation-masked"
    (tmp_path / "file").write_text(text)
    assert bench.verify("-f", str(tmp_path / "file"))[1].verification.reproducible
    (tmp_path / "file").write_text(text + "\n")
    with pytest.raises(UsageError, match="is not the Machinefile"):
        bench.verify("-f", str(tmp_path / "file"))


def test_rights_are_given_anew(bench: Bench) -> None:
    bench.build("FROM base\nCOPY <<x /x\nhi\nx\n", options={"entitlements": frozenset({"security.insecure"})})
    with pytest.raises(UsageError) as caught:
        bench.verify()
    assert caught.value.code == "attestation-allow"
    assert bench.verify("--allow=security.insecure")[1].verification.reproducible


def test_mode_min_is_too_little(bench: Bench) -> None:
    bench.build(mode=ProvenanceMode.MIN)
    with pytest.raises(UsageError, match="mode=min") as caught:
        bench.verify()
    assert caught.value.code == "attestation-incomplete"


def test_a_list_of_packages_alone_is_no_provenance(bench: Bench) -> None:
    bench.build(attest=AttestSpec(sbom=True))
    with pytest.raises(UsageError, match=r"has no provenance; .* https://spdx\.dev/Document") as caught:
        bench.verify()
    assert caught.value.code == "attestation-missing"


def test_another_builder_s_provenance_is_checked_and_not_rebuilt(bench: Bench) -> None:
    digest = bench.build()

    def said(subject: str) -> Attached:
        predicate = {"buildDefinition": {"buildType": "https://mobyproject.org/buildkit@v1"}}
        data = Statement(PROVENANCE_TYPE, predicate, (Subject("_", subject),)).to_json()
        return Attached((Found("it", data, False),), ())

    with pytest.raises(UsageError, match="buildkit") as caught:
        bench.verify(found=said(digest))
    assert caught.value.code == "attestation-foreign"
    with pytest.raises(UntrustedDataError) as untrusted:
        bench.verify(found=said("sha256:" + "0" * 64))
    assert untrusted.value.code == "attestation-subject"
    with pytest.raises(UntrustedDataError) as untrusted:
        bench.verify(found=said(digest), belief=Belief(None))
    assert untrusted.value.code == "attestation-unsigned"


def test_a_base_without_a_digest_is_refused(bench: Bench) -> None:
    digest = bench.build("FROM base\nCOPY <<x /x\nhi\nx\n")
    (found,) = bench.attached(digest).provenances
    data = found.data.replace(b'"reference":"base"', b'"reference":"other"')
    assert data != found.data
    with pytest.raises(UsageError) as caught:
        bench.verify(found=Attached((replace(found, data=data),), ()))
    assert caught.value.code == "attestation-incomplete"
