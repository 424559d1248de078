"""Registries as the command line meets them: the options about them, and several processes at once."""

from __future__ import annotations

import io
import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fault_proxy import Asked, Fault, FaultProxy

from engine.images import mediatype
from engine.images.config import ImageConfiguration
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest
from engine.images.policy import RegistrySettings
from engine.images.push import push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from machinefile.imageconfig import ImageConfig
from machinefile.platform import native

pytestmark = pytest.mark.registry


@pytest.fixture
def app(mbuild: Any) -> str:
    """A small image in the store, by its name."""
    mbuild.ok("-t", "app:1", mbuild.context("FROM scratch\nCOPY f /f\n", f="content"))
    return "app:1"


@pytest.fixture
def fresh(mbuild: Any, app: str) -> Any:
    """Gives a command with an empty store."""

    def new() -> Any:
        mbuild.store = mbuild.folder / f"store-{len(list(mbuild.folder.glob('store*')))}"
        return mbuild

    return new


def test_a_mirror_is_named_on_the_command_line(mbuild, app, registry, fresh) -> None:
    digest = mbuild.ok("push", app, f"{registry.address}/flags/hub/team/app:1").stdout
    mirror = f"--registry-mirror=nowhere.invalid={registry.address}/flags/hub"
    assert fresh().ok("pull", mirror, "nowhere.invalid/team/app:1").stdout == digest
    shown = fresh().ok("inspect", mirror, "--format=json", "nowhere.invalid/team/app:1").stdout
    assert json.loads(shown)["digest"] == digest.strip()
    context = mbuild.context("FROM nowhere.invalid/team/app:1\nCOPY f /g\n", f="x")
    assert "MISS" in mbuild.ok("plan", mirror, context).stdout
    fresh().ok("-t", "derived", mirror, context)
    mbuild.ok("--check", mirror, context)


def test_the_mirror_of_the_default_registry_needs_no_name(mbuild, app, registry, fresh) -> None:
    digest = mbuild.ok("push", app, f"{registry.address}/library/flags-app:1").stdout
    assert fresh().ok("pull", "--registry-mirror", registry.address, "flags-app:1").stdout == digest


def test_a_certificate_is_named_on_the_command_line(mbuild, app, start_registry, certificate, fresh) -> None:
    secure = start_registry(certificate=certificate)
    name = f"{secure.address}/app:1"
    refused = mbuild("push", app, name)
    assert refused.returncode == 4
    trusted = f"--registry-ca={secure.address}={certificate[1]}"
    digest = mbuild.ok("push", trusted, app, name).stdout
    assert fresh().ok("pull", trusted, name).stdout == digest
    fresh().ok("-o", f"type=image,name={secure.address}/built:1,push=true", trusted, mbuild.context(f"FROM {name}\n"))


def test_a_file_is_named_on_the_command_line_and_plain_http_goes_before_it(mbuild, app, registry, fresh) -> None:
    file = mbuild.folder / "own.toml"
    file.write_text(f'[registry."{registry.address}"]\nplain-http = false\n')
    name = f"{registry.address}/flags/plain:1"
    refused = mbuild("push", "--registries-config", file, app, name)
    assert refused.returncode == 4
    assert "--plain-http" in refused.stderr
    mbuild.ok("push", "--registries-config", file, "--plain-http", registry.address, app, name)


@pytest.mark.parametrize("command", ["build", "plan", "pull", "push", "inspect", "run", "lint"])
def test_every_command_that_asks_registries_has_the_options(mbuild, command: str) -> None:
    shown = mbuild.ok(command, "--help").stdout
    for option in ("--registry-mirror", "--plain-http", "--registry-ca", "--registries-config"):
        assert option in shown
    wrong = mbuild(command, "--registry-mirror", "x=y", *([] if command in ("build", "plan", "lint") else ["a"]))
    assert wrong.returncode == 2


@pytest.fixture
def slow(registry: Any) -> Iterator[FaultProxy]:
    with FaultProxy(registry.address) as proxy:
        proxy.trouble = lambda asked: Fault(drip=0.05) if asked.is_blob() else None
        yield proxy


def test_three_processes_fetch_a_layer_once(mbuild, registry, slow) -> None:
    push_large_image(registry, "flags/large:1")
    name = f"{slow.address}/flags/large:1"
    pulls = [
        subprocess.Popen(mbuild.argv("pull", name), env=mbuild.environ(), stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    digests = {pull.communicate(timeout=120)[0] for pull in pulls}
    assert [pull.returncode for pull in pulls] == [0, 0, 0]
    assert len(digests) == 1
    layers = [asked.path for asked in slow.seen if is_large(asked)]
    assert len(layers) == len(set(layers)) == 2
    assert mbuild.left_over() == []


LAYERS = [random.Random(seed).randbytes(2 << 20) for seed in (31, 32)]


def push_large_image(registry: Any, name: str) -> None:
    runs_on = native()
    config = ImageConfiguration(
        ImageConfig(),
        runs_on.architecture,
        runs_on.os,
        runs_on.variant,
        diff_ids=tuple(digest_of(data) for data in LAYERS),
    ).to_json()
    blobs = {digest_of(data): data for data in (*LAYERS, config)}
    *layers, last = (Descriptor(mediatype.OCI_LAYER, digest, len(data)) for digest, data in blobs.items())
    manifest = Manifest(replace(last, media_type=mediatype.OCI_CONFIG), tuple(layers))
    with RegistryClient(credentials=CredentialStore(()), settings=RegistrySettings()) as client:
        reference = Reference.parse(f"{registry.address}/{name}")
        push_image(client, reference, manifest.to_json(), lambda digest: io.BytesIO(blobs[digest]))


def is_large(asked: Asked) -> bool:
    return any(digest_of(data) in asked.path for data in LAYERS) and asked.is_blob()
