"""What real registries hold: indexes within indexes, variants, Docker's types and OCI's, every compression, and
documents that leave out what they may."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from cache.store import Store
from engine.bases import Bases
from engine.events import ignore
from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Index
from engine.images.policy import RegistrySettings
from engine.images.push import push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.source import ImageSources
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.platform import Platform
from machinefile.steps import BaseReference

pytestmark = pytest.mark.registry

ARM = [Platform("linux", "arm", variant) for variant in ("v5", "v6", "v7")]
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Documents:
    """Puts documents into a registry as they are."""

    def __init__(self, registry: Any) -> None:
        self.registry = registry
        self.blobs: dict[str, bytes] = {}

    def keep(self, data: bytes, kind: str, platform: Platform | None = None) -> Descriptor:
        self.blobs[digest_of(data)] = data
        return Descriptor(kind, digest_of(data), len(data), platform)

    def image(self, one: Any, platform: Platform) -> Descriptor:
        self.blobs.update(one.blobs)
        return Descriptor(one.manifest.media_type, one.digest, len(one.data), platform)

    def push(self, name: str, data: bytes) -> str:
        reference = Reference.parse(f"{self.registry.address}/shapes/{name}")
        with RegistryClient(credentials=CredentialStore(()), settings=RegistrySettings()) as client:
            push_image(client, reference, data, lambda digest: io.BytesIO(self.blobs[digest]))
        return str(reference)


@pytest.fixture
def documents(registry: Any) -> Documents:
    return Documents(registry)


@pytest.fixture
def resolve(tmp_path: Path) -> Callable[[str, Platform], Any]:
    def found(name: str, platform: Platform) -> Any:
        with ImageSources(tmp_path, credentials=CredentialStore(()), settings=RegistrySettings()) as sources:
            return sources.resolve(BaseReference(name, platform))

    return found


def test_an_image_within_indexes_is_found_by_its_variant(documents, resolve, new_image) -> None:
    ones = {platform: new_image(str(platform).encode(), platform) for platform in ARM}
    inner = Index(tuple(documents.image(one, platform) for platform, one in ones.items()))
    middle = Index((documents.keep(inner.to_json(), mediatype.OCI_INDEX),))
    other = Platform("linux", "s390x")
    outer = Index(
        (documents.image(new_image(b"other", other), other), documents.keep(middle.to_json(), mediatype.OCI_INDEX))
    )
    name = documents.push("nested:1", outer.to_json())
    for platform, one in ones.items():
        assert resolve(name, platform).digest == one.digest
    assert resolve(name, Platform("linux", "arm64")).digest == ones[ARM[2]].digest
    with pytest.raises(TransferError, match="linux/arm/v6") as caught:
        resolve(name, Platform("linux", "riscv64"))
    assert caught.value.code == "platform-missing"


def test_indexes_within_indexes_have_an_end(documents, resolve, image) -> None:
    amd64 = Platform("linux", "amd64")
    data = Index((documents.image(image, amd64),)).to_json()
    for depth in range(1, 7):
        data = Index((documents.keep(data, mediatype.OCI_INDEX),), annotations=(("depth", str(depth)),)).to_json()
    with RegistryClient(credentials=CredentialStore(()), settings=RegistrySettings()) as client:
        for document in documents.blobs.values():
            _put(client, documents.registry, document)
        _put(client, documents.registry, data)
    with pytest.raises(UntrustedDataError) as caught:
        resolve(f"{documents.registry.address}/shapes/deep@{digest_of(data)}", amd64)
    assert caught.value.code == "index-too-deep"


def _put(client: RegistryClient, registry: Any, data: bytes) -> None:
    """Whatever it is: a blob, or a document that push_image would not follow this deep."""
    reference = Reference.parse(f"{registry.address}/shapes/deep:1")
    scope = f"repository:{reference.repository}:pull,push"
    kind = json.loads(data).get("mediaType") if data.startswith(b'{"schemaVersion"') else ""
    if kind:
        url = client.session.url(reference, f"manifests/{digest_of(data)}")
        headers = {"Content-Type": kind}
        with client.session.exchange(reference, "PUT", url, headers=headers, content=data, scope=scope) as response:
            assert response.status_code == 201
        return
    url = client.session.url(reference, "blobs/uploads/")
    with client.session.exchange(reference, "POST", url, content=b"", scope=scope) as response:
        place = f"{response.headers['location']}&digest={digest_of(data)}"
    with client.session.exchange(reference, "PUT", place, content=data, scope=scope) as response:
        assert response.status_code == 201


@pytest.mark.parametrize(
    ("kind", "config", "compress", "layer"),
    [
        (mediatype.OCI_MANIFEST, mediatype.OCI_CONFIG, bytes, mediatype.OCI_LAYER),
        (mediatype.OCI_MANIFEST, mediatype.OCI_CONFIG, gzip.compress, mediatype.OCI_LAYER_GZIP),
        (mediatype.OCI_MANIFEST, mediatype.OCI_CONFIG, zstandard.compress, mediatype.OCI_LAYER_ZSTD),
        (mediatype.DOCKER_MANIFEST, mediatype.DOCKER_CONFIG, gzip.compress, DOCKER_LAYER),
    ],
    ids=["plain", "gzip", "zstd", "schema2"],
)
@pytest.mark.parametrize("bare", [False, True], ids=["full", "bare"])
def test_every_kind_of_layer_comes_through(
    documents,
    resolve,
    image,
    tmp_path,
    kind: str,
    config: str,
    compress: Callable[[bytes], bytes],
    layer: str,
    bare: bool,
) -> None:
    """`bare` leaves out the manifest's mediaType, and the configuration's history."""
    fields = json.loads(image.config)
    if not bare:
        fields["history"] = [{"created_by": "COPY etc/motd"}]
    configuration = documents.keep(json.dumps(fields).encode(), config)
    packed = documents.keep(compress(image.layer), layer)
    value: dict[str, object] = {"schemaVersion": 2, "mediaType": kind}
    value |= {"config": configuration.to_value(), "layers": [packed.to_value()]}
    if bare and kind == mediatype.OCI_MANIFEST:  # schema 2 demands it, and registries do too
        del value["mediaType"]
    data = json.dumps(value).encode()
    name = documents.push(f"kinds:{layer.rpartition('.')[2].replace('+', '-')}-{bare}", data)

    found = resolve(name, Platform("linux", "amd64"))
    assert found.digest == digest_of(data)
    assert len(found.configuration.history) == (0 if bare else 1)
    with (
        ImageSources(tmp_path, credentials=CredentialStore(()), settings=RegistrySettings()) as source,
        Store(tmp_path / "store") as store,
    ):
        bases = Bases(store, source, ignore)
        base = bases.get(BaseReference(name, Platform("linux", "amd64")))
        bases.pull_all(base)
        assert store.blobs.read(packed.digest) == documents.blobs[packed.digest]
        assert base.layers[0].media_type == (mediatype.OCI_LAYER_GZIP if layer == DOCKER_LAYER else layer)
