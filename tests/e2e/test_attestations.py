"""Attestations as others read them: with skopeo, jq and curl alone."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

FILE = 'FROM scratch\nCOPY node_modules /node_modules\nCMD ["x"]\n'


def jq(expression: str, data: bytes) -> str:
    done = subprocess.run(["jq", "-r", expression], input=data, check=True, capture_output=True, timeout=30)
    return done.stdout.decode().strip()


def skopeo(*words: str) -> bytes:
    return subprocess.run(["skopeo", *words], check=True, capture_output=True, timeout=60).stdout


def project(mbuild: Mbuild) -> Path:
    context = Path(mbuild.context(FILE))
    (context / "node_modules/left-pad").mkdir(parents=True)
    (context / "node_modules/left-pad/package.json").write_text('{"name": "left-pad", "version": "1.3.0"}')
    return context


def check_statements(blobs: dict[str, Any], digest: str) -> None:
    """`blobs` gives statements by their types."""
    assert set(blobs) == {"https://slsa.dev/provenance/v1", "https://spdx.dev/Document"}
    for data in blobs.values():
        assert "sha256:" + jq(".subject[0].digest.sha256", data) == digest
    found = jq(".predicate.packages[].externalRefs[]?.referenceLocator", blobs["https://spdx.dev/Document"])
    assert found == "pkg:npm/left-pad@1.3.0"
    assert jq(".predicate.buildDefinition.externalParameters.machinefile", blobs["https://slsa.dev/provenance/v1"])


def test_a_folder_s_attestations_are_read_with_jq_and_verified_with_openssl(mbuild: Mbuild, tmp_path: Path) -> None:
    key, public, folder = tmp_path / "k", tmp_path / "k.pub", tmp_path / "out"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, timeout=30)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True, timeout=30)
    options = ("--provenance=mode=max", "--sbom", "--attest-key", str(key), "-o", f"type=oci,dest={folder}")
    built = mbuild.build("-t", "app:1", *options, project(mbuild))
    index = skopeo("inspect", "--raw", f"oci:{folder}:1")
    assert jq(".manifests[0].digest", index) == built["image.digest"]

    def blob(digest: str) -> bytes:
        return (folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_bytes()

    chosen = '.manifests[] | select(.annotations["vnd.docker.reference.type"] == "attestation-manifest") | .digest'
    manifest = blob(jq(chosen, index))
    layers = json.loads(manifest)["layers"]
    of_type = {
        kind: {
            one["annotations"]["in-toto.io/predicate-type"]: blob(one["digest"])
            for one in layers
            if one["mediaType"] == kind
        }
        for kind in ("application/vnd.in-toto+json", "application/vnd.dsse.envelope.v1+json")
    }
    check_statements(of_type["application/vnd.in-toto+json"], built["image.digest"])
    for name, envelope in of_type["application/vnd.dsse.envelope.v1+json"].items():
        payload = base64.b64decode(jq(".payload", envelope))
        assert payload == of_type["application/vnd.in-toto+json"][name]
        signed, signature = tmp_path / "signed", tmp_path / "signature"
        signed.write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload)
        signature.write_bytes(base64.b64decode(jq(".signatures[0].sig", envelope)))
        argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", signed]
        subprocess.run([*argv, "-sigfile", signature], check=True, capture_output=True, timeout=30)


@pytest.mark.registry
def test_a_pushed_image_s_attestations_are_found_by_its_tag_and_by_its_digest(
    mbuild: Mbuild, registry: object, tmp_path: Path
) -> None:
    repository = f"{registry.address}/attested/app"  # type: ignore[attr-defined]
    options = ("-t", f"{repository}:1", "--attest", "type=provenance,mode=max", "--attest", "type=sbom", "--push")
    context = project(mbuild)
    digest = mbuild.build(*options, context)["image.digest"]
    assert mbuild.build(*options, context)["image.digest"] == digest

    raw = ("inspect", "--tls-verify=false", "--raw")
    index = skopeo(*raw, f"docker://{repository}:1")
    assert jq(".manifests[0].digest", index) == digest
    listed = skopeo(*raw, f"docker://{repository}:{digest.replace(':', '-')}")
    assert jq(".manifests[0].artifactType", listed) == "application/vnd.in-toto+json"
    referrers = jq(".manifests[].digest", listed).split()
    assert len(referrers) == len(set(referrers)) == 2, "the two builds differ in what ran"
    assert jq(".manifests[1].digest", index) == referrers[-1]

    manifest = skopeo(*raw, f"docker://{repository}@{referrers[-1]}")
    assert jq(".subject.digest", manifest) == digest
    skopeo(
        "--insecure-policy",
        "copy",
        "--all",
        "--src-tls-verify=false",
        f"docker://{repository}:1",
        f"dir:{tmp_path / 'd'}",
    )
    blobs = {
        one["annotations"]["in-toto.io/predicate-type"]: (
            tmp_path / "d" / one["digest"].removeprefix("sha256:")
        ).read_bytes()
        for one in json.loads(manifest)["layers"]
    }
    check_statements(blobs, digest)


def test_an_image_of_the_store_is_attested_by_its_name(mbuild: Mbuild) -> None:
    context = project(mbuild)
    mbuild.build("-t", "app:2", context)
    argv = mbuild.argv("attest", "app:2", "--type", "sbom", "--type", "provenance")
    done = subprocess.run(argv, env=mbuild.environ(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    attested = mbuild.build("-t", "app:2", "--sbom", "--provenance", context)
    assert done.stdout.strip() == attested["image.attested.digest"]
