"""`mbuild verify --attestation` as users run it: with an image, a key, and no Machinefile."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

FILE = "FROM {base}\nARG WORD\nCOPY program /\nCOPY <<x /word\n$WORD\nx\nLABEL made=$WORD\n"


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    private, public = folder / name, folder / f"{name}.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True, timeout=30)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=30)
    return private, public


@pytest.fixture
def files(mbuild: Mbuild) -> Path:
    """The files of the context, and nothing beside them."""
    folder = mbuild.folder / "elsewhere"
    folder.mkdir()
    (folder / "program").write_text("x")
    return folder


def test_a_layout_is_verified_where_there_is_no_machinefile(mbuild: Mbuild, busybox: str, files: Path) -> None:
    private, public = keys(mbuild.folder, "key")
    context, layout = mbuild.context(FILE.format(base=busybox), program="x"), mbuild.folder / "layout"
    options = ("--build-arg", "WORD=hi", "--provenance=mode=max", "--sbom", "--attest-key", private)
    form = f"type=oci,dest={layout},compression=zstd,compression-level=5,annotation.k=v"
    digest = mbuild.build("-t", "app", *options, "-o", form, context)["image.digest"]
    shutil.rmtree(context)

    leave = f"--allow-image={busybox}"
    done = mbuild("verify", "-q", "--attestation", "--key", public, layout, files)
    assert (done.returncode, leave.replace("=", " ") in done.stderr) == (2, True)
    done = mbuild.ok("verify", "-q", "--attestation", "--key", public, leave, layout, files)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("signature: good, of the key ")
    assert lines[-1].startswith("reproducible: sha256:")
    assert lines[1].removeprefix("subject: ") == lines[-1].removeprefix("reproducible: ") != digest
    done = mbuild.ok("verify", "-q", "--attestation", "--key", public, leave, "--format=json", "app", files)
    found = json.loads(done.stdout)
    assert (found["reproducible"], found["attestation"]["subject"], found["second"]) == (True, digest, digest)
    by_digest = mbuild.ok("verify", "-q", "--attestation", "--key", public, leave, digest, files)
    assert "reproducible: " in by_digest.stdout

    _, other = keys(mbuild.folder, "other")
    done = mbuild("verify", "-q", "--attestation", "--key", other, layout, files)
    assert (done.returncode, "is not signed with any of the keys" in done.stderr) == (4, True)
    done = mbuild("verify", "-q", "--attestation", layout, files)
    assert (done.returncode, "there is no key" in done.stderr) == (2, True)
    done = mbuild("verify", "-q", "--attestation", "--key", public, layout)
    assert (done.returncode, "none is given" in done.stderr) == (2, True)
    (files / "program").write_text("y")
    done = mbuild("verify", "-q", "--attestation", "--key", public, leave, layout, files)
    assert (done.returncode, f"{files} is not what the image was made from" in done.stderr) == (2, True)
    assert mbuild.left_over() == []


def test_a_statement_that_was_changed_or_is_another_image_s_is_refused(mbuild: Mbuild, files: Path) -> None:
    private, public = keys(mbuild.folder, "key")
    context = mbuild.context("FROM scratch\nCOPY program /\n", program="x")
    layouts = [mbuild.folder / name for name in "ab"]
    for number, layout in enumerate(layouts):
        options = ("--label", f"n={number}", "--provenance=mode=max", "--attest-key", private)
        mbuild.build(*options, "-o", f"type=oci,dest={layout}", context)
    envelope = json.loads(_envelope(layouts[1]))
    file = mbuild.folder / "statement"
    command = ("verify", "-q", f"--attestation={file}", "--key", public, layouts[0], files)

    file.write_text(json.dumps(envelope))
    done = mbuild("verify", "--attestation", file, "app:1")
    assert (done.returncode, f"--attestation={file}" in done.stderr) == (2, True)
    done = mbuild(*command)
    assert (done.returncode, " is about sha256:" in done.stderr) == (4, True)
    payload = base64.b64decode(envelope["payload"]).replace(b'"n":"1"', b'"n":"0"')
    file.write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))
    done = mbuild(*command)
    assert (done.returncode, "was changed since" in done.stderr) == (4, True)
    file.write_bytes(_envelope(layouts[0]))
    assert mbuild.ok(*command).stdout.splitlines()[-1].startswith("reproducible: ")


def _envelope(layout: Path) -> bytes:
    """The one DSSE envelope among a layout's blobs."""
    blobs = [path.read_bytes() for path in (layout / "blobs/sha256").iterdir()]
    (found,) = [data for data in blobs if data.startswith(b'{"payloadType"')]
    return found


@pytest.mark.registry
def test_an_image_in_a_registry_is_verified(mbuild: Mbuild, registry: object, files: Path) -> None:
    private, public = keys(mbuild.folder, "key")
    address: str = registry.address  # type: ignore[attr-defined]
    name, alone = f"{address}/verified/app:1", f"{address}/verified/app"
    context = mbuild.context("FROM scratch\nCOPY program /\n", program="x")
    options = ("-t", name, "--provenance=mode=max", "--attest-key", private, "--push")
    digest = mbuild.build(*options, context)["image.digest"]
    mbuild.ok("rmi", name)
    command = ("verify", "-q", "--attestation", "--key", public)
    assert mbuild.ok(*command, name, files).stdout.splitlines()[-1] == f"reproducible: {digest}"
    listed = mbuild.ok(*command, f"{alone}@{digest}", files)
    assert listed.stdout.splitlines()[-1] == f"reproducible: {digest}", "found among the referrers"


@pytest.mark.vm
def test_a_run_is_run_again(mbuild: Mbuild, busybox: str) -> None:
    layout = mbuild.folder / "layout"
    steady = mbuild.context(f"FROM {busybox}\nRUN echo hi > /a\nRUN date > /d\n")
    mbuild.build("--provenance=mode=max", "-o", f"type=oci,dest={layout}", steady)
    done = mbuild("verify", "-q", "--attestation", "--allow-unsigned", f"--allow-image={busybox}", layout)
    assert done.returncode == 5, done.stderr
    assert "signature: unsigned" in done.stdout
    assert "line 3" in done.stdout
    assert "cause: timestamp" in done.stdout
