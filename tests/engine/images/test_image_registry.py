"""Images from a real registry server."""

from __future__ import annotations

import base64
import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from engine.events import Event, TransferProgress
from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of, hex_part
from engine.images.layout_writer import LayoutWriter
from engine.images.manifest import Index, Manifest
from engine.images.source import ImageSources
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.platform import Platform
from machinefile.steps import BaseReference

pytestmark = pytest.mark.registry

AMD64 = Platform("linux", "amd64")


def write(dest: Path, images: dict[str, Any]) -> None:
    writer = LayoutWriter(dest)
    entries = []
    for name, one in images.items():
        writer.add_bytes(one.layer, mediatype.OCI_LAYER)
        writer.add_bytes(one.config, mediatype.OCI_CONFIG)
        data = writer.add_bytes(one.data, one.manifest.media_type)
        entries.append(Descriptor(data.media_type, data.digest, data.size, Platform("linux", name)))
    writer.add_manifest(Index(tuple(entries)), tag="both")
    writer.commit()


@pytest.fixture
def images(new_image: Any) -> dict[str, Any]:
    return {name: new_image(name.encode(), Platform("linux", name)) for name in ("amd64", "arm64")}


def anonymous(tmp_path: Path, **options: Any) -> ImageSources:
    return ImageSources(tmp_path, credentials=CredentialStore(()), **options)


def test_the_image_for_a_platform_is_pulled(registry, tmp_path, images) -> None:
    write(tmp_path / "layout", images)
    name = registry.copy(f"oci:{tmp_path}/layout:both", "pull/both:1")
    events: list[Event] = []
    with anonymous(tmp_path, observer=events.append) as sources:
        for platform, one in images.items():
            found = sources.resolve(BaseReference(name, Platform("linux", platform)))
            parts: list[bytes] = []
            sources.fetch_blob(found, found.layers[0].descriptor, parts.append)
            assert found.digest == one.digest
            assert b"".join(parts) == one.layer
            pinned = sources.resolve(BaseReference(f"{name}@{one.digest}", AMD64))
            assert pinned.digest == one.digest
        with pytest.raises(TransferError, match="linux/amd64, linux/arm64") as caught:
            sources.resolve(BaseReference(name, Platform("linux", "s390x")))
    assert caught.value.code == "platform-missing"
    assert [event.finished for event in events if isinstance(event, TransferProgress)].count(True) == 2


def test_what_is_not_there_is_named(registry, tmp_path) -> None:
    with anonymous(tmp_path) as sources, pytest.raises(TransferError) as caught:
        sources.resolve(BaseReference(f"{registry.address}/pull/absent:1", AMD64))
    assert caught.value.code == "image-not-found"
    assert "pull/absent:1" in caught.value.message


def blob(registry: Any, digest: str) -> Path:
    digits = hex_part(digest)
    return registry.folder / "docker/registry/v2/blobs/sha256" / digits[:2] / digits / "data"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [(lambda data: b"!" + data[1:], "digest-mismatch"), (lambda data: data[:-100], "blob-truncated")],
)
def test_a_blob_damaged_in_the_registry_is_refused(registry, tmp_path, new_image, quick, spoil, code: str) -> None:
    one = new_image(code.encode())
    write(tmp_path / "layout", {"amd64": one})
    name = registry.copy(f"oci:{tmp_path}/layout:both", f"pull/{code}:1")
    path = blob(registry, one.manifest.layers[0].digest)
    path.write_bytes(spoil(path.read_bytes()))
    with anonymous(tmp_path, policy=quick) as sources:
        found = sources.resolve(BaseReference(name, AMD64))
        with pytest.raises(UntrustedDataError) as caught:
            sources.fetch_blob(found, found.layers[0].descriptor, bytearray().extend)
    assert caught.value.code == code


def test_a_large_layer_arrives_whole(registry, tmp_path, new_image) -> None:
    one = new_image(random.Random(1).randbytes(20 << 20))
    packed = gzip.compress(one.layer, 1, mtime=0)
    layer = Descriptor(mediatype.OCI_LAYER_GZIP, digest_of(packed), len(packed))
    writer = LayoutWriter(tmp_path / "layout")
    writer.add_bytes(packed, layer.media_type)
    writer.add_bytes(one.config, mediatype.OCI_CONFIG)
    writer.add_manifest(Manifest(one.manifest.config, (layer,)), tag="1")
    writer.commit()
    name = registry.copy(f"oci:{tmp_path}/layout:1", "pull/large:1")
    got = bytearray()
    with anonymous(tmp_path) as sources:
        found = sources.resolve(BaseReference(name, AMD64))
        sources.fetch_blob(found, found.layers[0].descriptor, got.extend)
    assert gzip.decompress(got) == one.layer


def test_a_registry_with_a_login(start_registry, tmp_path, images) -> None:
    registry = start_registry(login=True)
    write(tmp_path / "layout", images)
    name = registry.copy(f"oci:{tmp_path}/layout:both", "private/both:1")
    reference = BaseReference(name, AMD64)
    with anonymous(tmp_path) as sources, pytest.raises(TransferError) as caught:
        sources.resolve(reference)
    assert caught.value.code == "registry-unauthorized"
    packed = base64.b64encode(f"{registry.username}:{registry.password}".encode()).decode()
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": {registry.address: {"auth": packed}}}))
    with ImageSources(tmp_path, credentials=CredentialStore((file,))) as sources:
        found = sources.resolve(reference)
        assert found.digest == images["amd64"].digest
        got = bytearray()
        sources.fetch_blob(found, found.layers[0].descriptor, got.extend)
    assert got == images["amd64"].layer
