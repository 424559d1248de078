"""Images that are built again from their provenance alone, with fakes in the place of machines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attested_support import Bench
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from layer_support import file_item, tar_of

from engine.attest.attached import Attached, Found
from engine.attest.spec import AttestSpec, ProvenanceMode
from engine.attest.statement import PROVENANCE_TYPE, Statement, Subject
from engine.epoch import Epoch
from engine.output.annotations import parse_annotations
from engine.remote.contexts import ContextKind, NamedContext, parse_context
from engine.secrets import Secrets
from engine.verify.attested import Belief
from machinefile.clocks import Clock
from machinefile.errors import UntrustedDataError, UsageError
from machinefile.platform import Platform, native
from machinefile.steps import NetworkMode

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = """FROM base AS made
ARG WORD
RUN --mount=type=bind,target=/src write first $WORD
FROM base
COPY a /
COPY --from=made /first /
LABEL own=1
"""


@pytest.fixture
def bench(workshop: Workshop, tmp_path: Path) -> Bench:
    workshop.write("a")
    return Bench(workshop, tmp_path / "verify")


def test_an_image_is_built_again_from_its_provenance(bench: Bench, workshop: Workshop) -> None:
    digest = bench.build(TEXT, options={"build_args": (("WORD", "w"),)})
    runs = len(workshop.sandbox.executions)
    claim, verified = bench.verify(str(workshop.context))
    assert verified.verification.reproducible
    assert (claim.subject, claim.signed_by, verified.verification.second) == (digest, "", digest)
    assert len(workshop.sandbox.executions) > runs, "the steps were run again"


def test_all_that_changes_an_image_is_told(bench: Bench, workshop: Workshop) -> None:
    """Each of these makes another image of the same file; the provenance has to have them all."""
    (workshop.context / "a").chmod(0o600)
    usual = bench.build(TEXT, options={"build_args": (("WORD", "w"),)})
    options = {
        "build_args": (("WORD", "other"), ("SOURCE_DATE_EPOCH", "1700000000")),
        "labels": (("l", "m"),),
        "network": NetworkMode.NONE,
        "clock": Clock.FROZEN,
        "hosts": (("h", "10.0.0.1"),),
        "target": "1",
    }
    other = bench.build(
        TEXT,
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
    bench.build(TEXT)
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
    bench.build(TEXT)
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
    bench.build(TEXT, mode=ProvenanceMode.MIN)
    with pytest.raises(UsageError, match="mode=min") as caught:
        bench.verify()
    assert caught.value.code == "attestation-incomplete"


def test_a_list_of_packages_alone_is_no_provenance(bench: Bench) -> None:
    bench.build(TEXT, attest=AttestSpec(sbom=True))
    with pytest.raises(UsageError, match=r"has no provenance; .* https://spdx\.dev/Document") as caught:
        bench.verify()
    assert caught.value.code == "attestation-missing"


def test_another_builder_s_provenance_is_checked_and_not_rebuilt(bench: Bench) -> None:
    digest = bench.build(TEXT)

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


def test_a_target_whose_name_another_stage_has_is_found_again(bench: Bench) -> None:
    text = "FROM base AS a\nCOPY <<x /x\n1\nx\nFROM base AS a\nCOPY <<x /x\n2\nx\n"
    first = bench.build(text, options={"target": "0"})
    assert bench.verify()[1].verification.second == first
    assert bench.build(text) != first
    assert bench.verify()[1].verification.reproducible


def test_a_base_for_another_platform_is_not_what_the_image_was_built_for(bench: Bench, workshop: Workshop) -> None:
    arm = Platform("linux", "arm64")
    text = f"FROM --platform={arm} base\nARG TARGETARCH\nCOPY <<x /x\n$TARGETARCH\nx\n"
    workshop.source.add("base", [tar_of(file_item("arm", b"x"))], platform=arm)
    bench.build(text, annotations=parse_annotations([f"manifest[{native()}]:k=v"]))
    claim, verified = bench.verify()
    assert (claim.recipe.platform, verified.verification.reproducible) == (native(), True)


def test_an_image_of_this_machine_is_read_with_leave_alone(bench: Bench, workshop: Workshop) -> None:
    image = workshop.source.add("oci-layout:/base:1", [tar_of(file_item("own", b"x"))])
    text = "FROM oci-layout:/base:1\nCOPY <<x /x\nhi\nx\n"
    asked = workshop.source.asked
    bench.build(text)
    before = list(asked)
    with pytest.raises(UsageError, match="oci-layout:/base:1") as caught:
        bench.verify()
    assert (caught.value.code, asked) == ("image-not-allowed", before)
    assert bench.verify("--allow-image=oci-layout:/base:1")[1].verification.reproducible
    with pytest.raises(UsageError, match="no image of this machine"):
        bench.verify("--allow-image=base")
    bench.build(text.replace(":1", f"@{image}"))
    before = list(asked)
    with pytest.raises(UsageError) as caught:
        bench.verify()
    assert (caught.value.code, asked) == ("image-not-allowed", before)


def test_no_more_is_read_than_one_provenance_may_have(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.attest import attached

    key = tmp_path / "key"
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    digest = bench.build("FROM base\nCOPY <<x /x\nhi\nx\n", attest=AttestSpec(ProvenanceMode.MAX, key=key))
    found = bench.attached(digest).provenances
    assert [one.signed for one in found] == [False, True]
    total = sum(len(one.data) for one in found)
    monkeypatch.setattr(attached, "MAX_PROVENANCE_BYTES", total)
    assert bench.attached(digest).provenances == found
    monkeypatch.setattr(attached, "MAX_PROVENANCE_BYTES", total - 1)
    with pytest.raises(UntrustedDataError) as caught:
        bench.attached(digest)
    assert caught.value.code == "attestation-invalid"


def test_a_context_is_one_thing(bench: Bench, tmp_path: Path) -> None:
    """A folder of which a provenance also says that it is a repository would not be compared."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "x").write_text("x")
    context = parse_context(f"extra={tmp_path / 'extra'}")
    text = "FROM base\nCOPY --from=extra x /\n"
    digest = bench.build(text, contexts=(context,), options={"contexts": frozenset({"extra"})})
    (found,) = bench.attached(digest).provenances
    for name, address in (("extra", "https://h/r.git"), ("other", str(tmp_path)), ("other=x", "https://h/r.git")):
        value = json.loads(found.data)
        annotations = {"repository": "https://h/r.git", "ref": "", "name": "", "context": name, "address": address}
        one = {"uri": "git+https://h/r.git", "digest": {"gitCommit": "b" * 40}, "annotations": annotations}
        value["predicate"]["buildDefinition"]["resolvedDependencies"].append(one)
        said = replace(found, data=json.dumps(value).encode())
        with pytest.raises(UntrustedDataError) as caught:
            bench.verify(f"--build-context=extra={tmp_path / 'extra'}", found=Attached((said,), ()))
        assert caught.value.code == "attestation-invalid"
