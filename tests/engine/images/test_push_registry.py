"""Pushes into a real registry server, read back by skopeo."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of, hex_part
from engine.images.manifest import Index, Manifest
from engine.images.policy import RegistrySettings
from engine.images.push import Pushed, push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.registry_config import RegistryEntry
from machinefile.errors import StoreError, TransferError
from machinefile.platform import Platform

pytestmark = pytest.mark.registry


def skopeo(registry: Any, *words: str) -> bytes:
    environ = {**os.environ, "HOME": str(registry.folder)}
    argv = ["skopeo", "--insecure-policy", *words]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60, env=environ).stdout


def raw(registry: Any, name: str) -> bytes:
    login = ["--creds", f"{registry.username}:{registry.password}"] if registry.username else []
    return skopeo(registry, "inspect", "--raw", "--tls-verify=false", *login, f"docker://{registry.address}/{name}")


class Image:
    """An image with a large gzip layer, and one small enough to go in one request."""

    def __init__(self, small: Any, seed: int = 1) -> None:
        packed = gzip.compress(random.Random(seed).randbytes(8 << 20), 1, mtime=0)
        self.blobs = {digest_of(data): data for data in (packed, small.layer)}
        layers = (
            Descriptor(mediatype.OCI_LAYER_GZIP, digest_of(packed), len(packed)),
            Descriptor(mediatype.OCI_LAYER, digest_of(small.layer), len(small.layer)),
        )
        config = json.loads(small.config)
        config["rootfs"]["diff_ids"] = [digest_of(gzip.decompress(packed)), digest_of(small.layer)]
        self.config = json.dumps(config).encode()
        self.blobs[digest_of(self.config)] = self.config
        self.manifest = Manifest(
            Descriptor(mediatype.OCI_CONFIG, digest_of(self.config), len(self.config)),
            layers,
            annotations=(("org.example.note", "kept"),),
        )
        self.data = self.manifest.to_json()
        self.blobs[digest_of(self.data)] = self.data

    def open(self, digest: str) -> io.BytesIO:
        if digest not in self.blobs:
            raise StoreError("it is not here", code="blob-missing")
        return io.BytesIO(self.blobs[digest])


@pytest.fixture
def pushed_image(image: Any) -> Image:
    return Image(image)


def push(client: RegistryClient, one: Image, registry: Any, name: str, **options: Any) -> Pushed:
    return push_image(client, Reference.parse(f"{registry.address}/{name}"), one.data, one.open, **options)


def anonymous(**options: Any) -> RegistryClient:
    return RegistryClient(credentials=CredentialStore(()), **options)


def test_skopeo_reads_what_was_pushed(registry, pushed_image, tmp_path) -> None:
    with anonymous() as client:
        done = push(client, pushed_image, registry, "out/plain:1")
        assert (done.sent, done.there) == (3, 0)
        again = push(client, pushed_image, registry, "out/plain:2")
        assert (again.sent, again.there) == (0, 3)
    assert raw(registry, "out/plain:1") == raw(registry, "out/plain:2") == pushed_image.data
    copy = ["copy", "--src-tls-verify=false", "--preserve-digests", "--quiet"]
    skopeo(registry, *copy, f"docker://{registry.address}/out/plain:1", f"oci:{tmp_path}/layout:1")
    for digest, data in pushed_image.blobs.items():
        assert (tmp_path / "layout/blobs/sha256" / hex_part(digest)).read_bytes() == data


def test_an_image_that_is_looked_for_first_and_is_there_only_gets_its_tag(registry, pushed_image) -> None:
    def opened(digest: str) -> io.BytesIO:
        raise AssertionError("nothing needs to be sent")

    def refuse() -> None:
        raise StoreError("that is no layer", code="blob-corrupt")

    def check() -> None:
        checked.append(True)

    checked: list[bool] = []
    with anonymous() as client:
        with pytest.raises(StoreError):
            push(client, pushed_image, registry, "looked/for:1", look_first=True, check=refuse)
        first = push(client, pushed_image, registry, "looked/for:1", look_first=True, check=check)
        assert first.sent == 3, "nothing was sent before it was looked at"
        assert checked.pop()
        reference = Reference.parse(f"{registry.address}/looked/for:2")
        again = push_image(client, reference, pushed_image.data, opened, look_first=True, check=check)
        assert (again.sent, again.there, checked) == (0, 3, [])
    assert raw(registry, "looked/for:2") == pushed_image.data


def test_an_index_keeps_its_digest(registry, new_image) -> None:
    ones = [Image(new_image(name.encode(), Platform("linux", name)), 2) for name in ("amd64", "arm64")]
    entries = tuple(
        Descriptor(mediatype.OCI_MANIFEST, digest_of(one.data), len(one.data), Platform("linux", name))
        for one, name in zip(ones, ("amd64", "arm64"), strict=True)
    )
    both = Image(new_image())
    both.data = Index(entries).to_json()
    both.blobs = {**ones[0].blobs, **ones[1].blobs}
    with anonymous() as client:
        assert push(client, both, registry, "out/index:1").digest == digest_of(both.data)
    assert raw(registry, "out/index:1") == both.data
    argv = ["inspect", "--tls-verify=false", "--override-arch", "arm64", f"docker://{registry.address}/out/index:1"]
    assert json.loads(skopeo(registry, *argv))["Architecture"] == "arm64"


def test_a_blob_of_another_repository_is_not_sent_again(registry, pushed_image) -> None:
    layer = pushed_image.manifest.layers[0].digest
    with anonymous() as client:
        push(client, pushed_image, registry, "origin/base:1")
        done = push(client, pushed_image, registry, "derived/app:1", origins=lambda digest: ["origin/base"])
    assert (done.mounted, done.sent) == (3, 0)
    links = registry.folder / "docker/registry/v2/repositories/derived/app/_layers/sha256"
    assert (links / hex_part(layer) / "link").read_text() == layer
    assert raw(registry, "derived/app:1") == pushed_image.data


def test_a_registry_with_a_login_is_pushed_to(start_registry, pushed_image, tmp_path) -> None:
    registry = start_registry(login=True)
    with anonymous() as client, pytest.raises(TransferError) as caught:
        push(client, pushed_image, registry, "private/app:1")
    assert caught.value.code == "registry-unauthorized"
    packed = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {registry.address: {"auth": packed}}}))
    with RegistryClient(credentials=CredentialStore((file,))) as client:
        assert push(client, pushed_image, registry, "private/app:1").sent == 3
        done = push(client, pushed_image, registry, "private/other:1", origins=lambda digest: ["private/app"])
    assert done.mounted == 3
    assert raw(registry, "private/app:1") == pushed_image.data


def test_a_registry_behind_tls(start_registry, pushed_image, certificate) -> None:
    registry = start_registry(certificate=certificate)

    def settings(**options: Any) -> RegistrySettings:
        return RegistrySettings(entries=(RegistryEntry(registry.address, plain_http=False, **options),))

    with anonymous(settings=settings(ca=(certificate[1],))) as client:
        assert push(client, pushed_image, registry, "tls/app:1").sent == 3
    assert raw(registry, "tls/app:1") == pushed_image.data
    with anonymous(settings=settings()) as client, pytest.raises(TransferError) as caught:
        push(client, pushed_image, registry, "tls/app:2")
    assert caught.value.code == "registry-untrusted-certificate"
    assert "registries.toml" in caught.value.hint
    with anonymous(settings=settings(skip_verify=True)) as client:
        assert push(client, pushed_image, registry, "tls/app:2").there == 3


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\n???\n"])
def test_a_certificate_that_cannot_be_read_is_named(registry, pushed_image, tmp_path: Path, content) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    entry = RegistryEntry(registry.address, plain_http=False, ca=(file,))
    with anonymous(settings=RegistrySettings(entries=(entry,))) as client, pytest.raises(Exception) as caught:  # noqa: PT011
        push(client, pushed_image, registry, "tls/none:1")
    assert getattr(caught.value, "code", "") == "registry-config-invalid"
    assert str(file) in str(caught.value)
