"""Builds that say how they went."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cache.collection.policy import Policy
from engine.attest import make
from engine.attest.attach import IS_ATTESTATION, REFERENCE_DIGEST, REFERENCE_TYPE
from engine.attest.dependencies import remote_dependency
from engine.attest.dsse import AttestationSigner, Envelope
from engine.attest.make import Attester
from engine.attest.packages import inventory
from engine.attest.provenance import kept_provenance
from engine.attest.spec import AttestSpec, ProvenanceMode
from engine.attest.statement import MEDIA_TYPE
from engine.attest.stored import attest_stored, attestations_of
from engine.bases import Bases
from engine.collection.prune import prune
from engine.epoch import Epoch
from engine.images.manifest import Index, parse_manifest
from engine.images.reference import Reference
from engine.imagestore import keep, untag
from engine.layerstore import LayerStore
from engine.output.spec import parse_output
from engine.report import BuildReport
from engine.secrets import Secrets
from machinefile.errors import UntrustedDataError, UsageError
from machinefile.platform import Platform
from machinefile.steps import RemoteSource

if TYPE_CHECKING:
    from conftest import Workshop

MAX = AttestSpec(ProvenanceMode.MAX, sbom=True)
TEXT = "FROM base AS one\nRUN write a b\nFROM base\nCOPY --from=one /a /a\nLABEL x=y\n"


def attested(workshop: Workshop, text: str = TEXT, spec: AttestSpec = MAX, **options: Any) -> BuildReport:
    secrets = options.pop("secrets", Secrets())
    request = workshop.request(text, names=("docker.io/library/app:1",), **options)
    return workshop.driver.build(replace(request, attest=spec, secrets=secrets))


def said(workshop: Workshop, report: BuildReport) -> dict[str, dict[str, Any]]:
    """The statements about the image, by what kind they are."""
    ((about, manifest),) = attestations_of(workshop.store, report.attested)
    assert about == report.digest
    statements = [json.loads(workshop.store.blobs.read(layer.digest)) for layer in manifest.layers]
    assert all(one["subject"][0]["digest"]["sha256"] == about.removeprefix("sha256:") for one in statements)
    return {one["predicateType"]: one["predicate"] for one in statements}


def provenance(workshop: Workshop, report: BuildReport) -> dict[str, Any]:
    return said(workshop, report)["https://slsa.dev/provenance/v1"]


def test_a_build_s_index_holds_the_image_and_what_is_said_about_it(workshop: Workshop) -> None:
    report = attested(workshop)
    index = parse_manifest(workshop.store.blobs.read(report.attested))
    assert isinstance(index, Index)
    image, line = index.manifests
    assert image.digest == report.digest
    assert str(line.platform) == "unknown/unknown"
    assert dict(line.annotations) == {REFERENCE_TYPE: IS_ATTESTATION, REFERENCE_DIGEST: report.digest}
    ((_, manifest),) = attestations_of(workshop.store, report.attested)
    assert manifest.subject is not None
    assert manifest.subject.digest == report.digest
    assert manifest.artifact_type == "application/vnd.in-toto+json"
    named = workshop.store.names.get("docker.io/library/app:1")
    assert named is not None
    assert named.digest == report.attested


def test_a_provenance_has_what_slsa_asks_for(workshop: Workshop) -> None:
    predicate = provenance(workshop, attested(workshop))
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    assert definition["buildType"].startswith("https://")
    assert definition["externalParameters"]["machinefile"] == TEXT
    (base,) = definition["resolvedDependencies"]
    assert base["uri"].startswith("pkg:docker/base@")
    assert len(base["digest"]["sha256"]) == 64
    assert details["builder"]["id"].startswith("https://")
    assert details["builder"]["version"]["mbuild"]
    assert [step["annotations"]["result"] for step in details["byproducts"]] == ["run", "run"]


def test_equal_builds_say_the_same_but_for_what_ran(workshop: Workshop) -> None:
    cold = attested(workshop)
    warm = attested(workshop)
    assert warm.digest == cold.digest
    first, second = provenance(workshop, cold), provenance(workshop, warm)
    results = [step["annotations"].pop("result") for step in second["runDetails"]["byproducts"]]
    assert results == ["hit", "hit"]
    for step in first["runDetails"]["byproducts"]:
        del step["annotations"]["result"]
    assert first == second
    assert attested(workshop).attested == warm.attested


def test_in_mode_min_a_warm_build_says_what_a_cold_one_does(workshop: Workshop) -> None:
    spec = AttestSpec(ProvenanceMode.MIN)
    cold, warm = (attested(workshop, spec=spec, build_args=(("A", "b"),)) for _ in range(2))
    assert cold.attested == warm.attested
    text = json.dumps(provenance(workshop, cold))
    assert "write a b" not in text, "the Machinefile is left out"
    assert "byproducts" not in text
    assert "buildArguments" not in text


def test_an_unattested_build_gives_the_same_image(workshop: Workshop) -> None:
    assert workshop.build(TEXT).digest == attested(workshop).digest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pw", "other"),  # the id of a secret
        ("A", "hunter2hunter2"),
        ("A", "x=hunter2hunter2"),
        ("API_TOKEN", "1"),
        ("HTTP_PROXY", "http://proxy"),
        ("URL", "https://me:word@host/"),
    ],
)
def test_arguments_that_may_be_secret_are_left_out(workshop: Workshop, name: str, value: str) -> None:
    secrets = Secrets((("pw", b"hunter2hunter2\n"),))
    arguments = ((name, value), ("B", "told"))
    report = attested(workshop, build_args=arguments, secrets=secrets)
    external = provenance(workshop, report)["buildDefinition"]["externalParameters"]
    assert external["buildArguments"] == {"B": "told"}
    assert external["hiddenBuildArguments"] == [name]
    assert external["options"]["secrets"] == ["pw"]


def test_a_secret_in_the_file_itself_is_masked(workshop: Workshop) -> None:
    text = "FROM base AS unused\nRUN echo hunter2hunter2\nFROM base\nRUN write a b\n"
    report = attested(workshop, text, secrets=Secrets((("pw", b"hunter2hunter2"),)))
    assert "hunter2hunter2" not in json.dumps(said(workshop, report))


def test_passwords_in_addresses_are_masked(workshop: Workshop) -> None:
    predicate = provenance(workshop, attested(workshop, "FROM base\nRUN write a https://me:word@host/\n"))
    assert predicate["buildDefinition"]["externalParameters"]["machinefile"].endswith("https://***@host/\n")
    assert "me:word" not in json.dumps(predicate)


@pytest.mark.parametrize("text", ["type=docker,dest=x.tar", "type=local,dest=x", "type=tar,dest=x", "type=disk,dest=x"])
def test_outputs_that_cannot_hold_attestations_are_refused(workshop: Workshop, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        attested(workshop, outputs=(parse_output(text),))
    assert refused.value.code == "attest-output"


def test_each_output_s_image_has_attestations_of_its_own(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    report = attested(workshop, outputs=(parse_output(f"type=oci,dest={folder},compression=zstd"),))
    (line,) = json.loads((folder / "index.json").read_bytes())["manifests"]
    image, about = json.loads((folder / "blobs/sha256" / line["digest"][7:]).read_bytes())["manifests"]
    assert image["digest"] != report.digest, "compressed in another way"
    assert about["annotations"][REFERENCE_DIGEST] == image["digest"]
    assert (folder / "blobs/sha256" / about["digest"][7:]).is_file()


def attester(workshop: Workshop, spec: AttestSpec) -> Attester:
    return Attester(spec, workshop.store, LayerStore(workshop.store, Bases(workshop.store, workshop.source, print)))


def test_an_image_of_the_store_can_be_attested_later(workshop: Workshop) -> None:
    at_once = attested(workshop)
    report = workshop.build(TEXT, names=("docker.io/library/app:1",))
    later = attest_stored(workshop.store, attester(workshop, MAX), "app:1", provenance=True)
    again = attest_stored(workshop.store, attester(workshop, MAX), "app:1", provenance=True)
    assert again.digest == later.digest, "they take the place of those that were there"
    ((about, _),) = attestations_of(workshop.store, later.digest)
    assert about == report.digest == at_once.digest
    assert later.digest == at_once.attested, "the build that found everything did not make it"


def test_nothing_is_made_up_of_an_image_from_elsewhere(workshop: Workshop) -> None:
    report = workshop.build(TEXT)  # without a name nothing is kept
    data = workshop.store.blobs.read(report.digest)
    keep(
        workshop.store, Reference.parse("other"), report.digest, len(data), "application/vnd.oci.image.manifest.v1+json"
    )
    with pytest.raises(UsageError) as refused:
        attest_stored(workshop.store, attester(workshop, MAX), "other", provenance=True)
    assert refused.value.code == "attest-unknown"


def test_what_ran_the_steps_is_told_if_it_ran_any(workshop: Workshop) -> None:
    driver = replace(workshop.driver, versions=lambda: (("qemu", "7.2"),))
    request = replace(workshop.request(TEXT, names=("docker.io/library/app:1",)), attest=MAX)
    cold, warm = (provenance(workshop, driver.build(request))["runDetails"]["builder"] for _ in range(2))
    assert cold["version"].pop("qemu") == "7.2"
    assert cold == warm


def test_every_image_of_an_index_is_attested(workshop: Workshop) -> None:
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    request = workshop.request("FROM scratch\nCOPY . /\n", names=("docker.io/library/app:1",))
    plain = workshop.driver.build(replace(request, platforms=platforms))
    report = workshop.driver.build(replace(request, platforms=platforms, attest=MAX))
    assert report.digest == plain.digest
    found = attestations_of(workshop.store, report.attested)
    assert [about for about, _ in found] == [image.digest for image in report.images]
    later = attest_stored(workshop.store, attester(workshop, MAX), "app:1", provenance=True)
    assert [about for about, _ in attestations_of(workshop.store, later.digest)] == [about for about, _ in found]


def test_cleaning_keeps_what_is_said_about_images_with_names(workshop: Workshop) -> None:
    report = attested(workshop)
    prune(workshop.store, Policy(everything=True))
    assert set(said(workshop, report)) == {"https://slsa.dev/provenance/v1", "https://spdx.dev/Document"}
    assert kept_provenance(workshop.store, report.digest) is not None
    untag(workshop.store, ["app:1"])
    prune(workshop.store, Policy(everything=True))
    assert not workshop.store.blobs.has(report.attested)
    assert kept_provenance(workshop.store, report.digest) is None


@pytest.mark.parametrize(
    ("url", "pinned", "uri", "digest"),
    [
        ("https://me:word@host/a.tar", "sha256:" + "1" * 64, "https://***@host/a.tar", {"sha256": "1" * 64}),
        ("https://host/hunter2hunter2", "sha512:" + "2" * 128, "https://host/***", {"sha512": "2" * 128}),
        ("https://host/x.git#v1", "3" * 40, "git+https://host/x.git@v1", {"gitCommit": "3" * 40}),
        ("git@host:team/x.git", "3" * 40, "git+ssh://git@host/team/x.git", {"gitCommit": "3" * 40}),
    ],
)
def test_what_came_from_afar_is_named_without_passwords(
    url: str, pinned: str, uri: str, digest: dict[str, str]
) -> None:
    secrets = Secrets((("pw", b"hunter2hunter2"),))
    found = remote_dependency(RemoteSource(url, pinned=pinned), secrets)
    assert (found["uri"], found["digest"]) == (uri, digest)
    assert "hunter2hunter2" not in json.dumps(found)


def test_a_hidden_argument_is_not_told_where_it_was_put_in(workshop: Workshop) -> None:
    text = "FROM base\nARG API_TOKEN\nARG N\nCOPY --chmod=0644 a /${API_TOKEN}\nCOPY a /$N\n"
    workshop.write("a")
    arguments = (("API_TOKEN", "hunter2hunter2"), ("N", "told"))
    report = attested(workshop, text, AttestSpec(ProvenanceMode.MAX), build_args=arguments)
    predicate = provenance(workshop, report)
    assert "hunter2hunter2" not in json.dumps(predicate)
    steps = [step["annotations"]["instruction"] for step in predicate["runDetails"]["byproducts"]]
    assert steps == ["COPY --chmod=0644 a /***", "COPY a /told"]


def test_a_build_that_finds_everything_asks_nobody_for_versions(workshop: Workshop) -> None:
    asked = []
    driver = replace(workshop.driver, versions=lambda: (asked.append(1), (("qemu", "7.2"),))[1])
    request = workshop.request(TEXT, names=("docker.io/library/app:1",))
    digest = driver.build(request).digest
    assert asked == [1]
    kept = kept_provenance(workshop.store, digest)
    assert driver.build(request).digest == digest
    assert kept_provenance(workshop.store, digest) == kept, "of the build that ran the steps"
    assert asked == [1]
    driver.build(replace(request, attest=AttestSpec(builder_id="https://ci.example")))
    other = kept_provenance(workshop.store, digest)
    assert other is not None
    assert other != kept
    driver.build(replace(request, options=replace(request.options, target="one")))
    driver.build(replace(request, options=replace(request.options, labels=(("x", "y"),))))
    assert kept_provenance(workshop.store, digest) != other, "the same image, asked for in another way"


def test_what_goes_to_several_places_is_read_and_signed_once(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    monkeypatch.setattr(make, "inventory", lambda *given: (read.append(1), inventory(*given))[1])
    signed = []

    def sign(self: AttestationSigner, payload: bytes) -> Envelope:
        signed.append(payload)  # as where each signature is another one
        return Envelope(MEDIA_TYPE, payload, ((self.key_id, b"%d" % len(signed)),))

    monkeypatch.setattr(AttestationSigner, "sign", sign)
    key = tmp_path / "key"
    argv = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    texts = (f"type=oci,dest={tmp_path / 'same'}", f"type=oci,dest={tmp_path / 'other'},compression=zstd")
    report = attested(workshop, spec=replace(MAX, key=key), outputs=tuple(map(parse_output, texts)))
    (line,) = json.loads((tmp_path / "same/index.json").read_bytes())["manifests"]
    named = workshop.store.names.get("docker.io/library/app:1")
    assert named is not None
    assert line["digest"] == named.digest == report.attested
    assert read == [1]
    assert len(signed) == 4, "two statements about each form of the image"


def test_an_image_that_contradicts_itself_is_refused(workshop: Workshop) -> None:
    report = workshop.build(TEXT)
    manifest, _ = workshop.image(report.digest)
    data = replace(manifest, layers=manifest.layers[:1]).to_json()
    digest = workshop.store.blobs.put(data)
    keep(workshop.store, Reference.parse("odd"), digest, len(data), manifest.media_type)
    with pytest.raises(UntrustedDataError) as refused:
        attest_stored(workshop.store, attester(workshop, AttestSpec(sbom=True)), "odd", provenance=False)
    assert refused.value.code == "manifest-invalid"


def test_the_list_of_packages_has_the_time_of_the_image(workshop: Workshop) -> None:
    request = workshop.request(TEXT, names=("docker.io/library/app:1",))
    epoch = Epoch(1_700_000_000)
    report = workshop.driver.build(replace(request, epoch=epoch, attest=MAX))
    assert said(workshop, report)["https://spdx.dev/Document"]["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
