"""Manifests and indexes from elsewhere."""

from __future__ import annotations

import json

import pytest

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.manifest import Index, Manifest, parse_index, parse_manifest
from machinefile.errors import UntrustedDataError
from machinefile.platform import Platform

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64
CONFIG = {"mediaType": mediatype.OCI_CONFIG, "digest": A, "size": 2}
LAYER = {"mediaType": mediatype.OCI_LAYER_GZIP, "digest": B, "size": 3}


def encoded(**fields: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **fields}).encode()


def test_a_manifest_written_and_read_is_the_same() -> None:
    layer = Descriptor(mediatype.OCI_LAYER, B, 3, annotations=(("a", "b"),), urls=("https://example.org/x",))
    manifest = Manifest(Descriptor(mediatype.OCI_CONFIG, A, 2), (layer,), annotations=(("x", "y"),))
    assert parse_manifest(manifest.to_json()) == manifest


def test_an_index_written_and_read_is_the_same() -> None:
    index = Index((Descriptor(mediatype.OCI_MANIFEST, A, 2, Platform("linux", "arm", "v7")),))
    assert parse_index(index.to_json()) == index


def test_the_bytes_are_compact_and_in_dockers_order() -> None:
    data = Manifest(Descriptor("c", A, 2), ()).to_json().decode()
    assert data == (
        '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        f'"config":{{"mediaType":"c","digest":"{A}","size":2}},"layers":[]}}'
    )


def test_a_missing_media_type_is_seen_from_the_shape() -> None:
    manifest = parse_manifest(encoded(config=CONFIG, layers=[LAYER]))
    assert isinstance(manifest, Manifest)
    assert manifest.media_type == mediatype.OCI_MANIFEST
    docker = parse_manifest(encoded(config={**CONFIG, "mediaType": mediatype.DOCKER_CONFIG}, layers=None))
    assert docker.media_type == mediatype.DOCKER_MANIFEST
    index = parse_manifest(encoded(manifests=[]))
    assert isinstance(index, Index)


def test_platforms_in_an_index_are_normalised() -> None:
    entry = {**CONFIG, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    strange = {**CONFIG, "platform": {"os": "linux", "architecture": "a/b", "variant": "c/d"}}
    index = parse_index(encoded(manifests=[entry, CONFIG, strange]))
    assert [entry.platform for entry in index.manifests][:2] == [Platform("linux", "arm64"), None]
    assert index.manifests[2].platform == Platform("linux", "a/b", "c/d")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "manifest-invalid"),
        (b"[]", "manifest-invalid"),
        (b'"text"', "manifest-invalid"),
        (b"\xff{}", "manifest-invalid"),
        (b"{}", "manifest-invalid"),
        (b" " * (5 << 20), "manifest-invalid"),
        (b'{"config":' * 50_000, "manifest-invalid"),
        (encoded(layers=[LAYER]), "manifest-invalid"),
        (encoded(config={**CONFIG, "digest": "sha256:../../../etc/shadow"}), "manifest-invalid"),
        (encoded(config={**CONFIG, "digest": "sha256:" + "A" * 64}), "manifest-invalid"),
        (encoded(config={**CONFIG, "digest": A + "\n"}), "manifest-invalid"),
        (encoded(config={**CONFIG, "digest": None}), "manifest-invalid"),
        (encoded(config={**CONFIG, "size": -1}), "manifest-invalid"),
        (encoded(config={**CONFIG, "size": 1 << 63}), "manifest-invalid"),
        (encoded(config={**CONFIG, "size": "2"}), "manifest-invalid"),
        (encoded(config={**CONFIG, "size": 1e3}), "manifest-invalid"),
        (encoded(config=CONFIG, layers={}), "manifest-invalid"),
        (encoded(config=CONFIG, layers=[1]), "manifest-invalid"),
        (encoded(config=CONFIG, layers=[LAYER] * 1001), "manifest-invalid"),
        (encoded(manifests=[{"digest": "latest"}]), "manifest-invalid"),
        (encoded(manifests=[], layers=[LAYER], config=CONFIG), "manifest-ambiguous"),
        (encoded(mediaType=mediatype.OCI_MANIFEST, manifests=[]), "manifest-ambiguous"),
        (encoded(mediaType=mediatype.OCI_INDEX, config=CONFIG, layers=[]), "manifest-ambiguous"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "manifest-unsupported"),
    ],
)
def test_a_hostile_manifest_is_refused(data: bytes, code: str) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        parse_manifest(data)
    assert caught.value.code == code


def test_the_message_names_the_place() -> None:
    with pytest.raises(UntrustedDataError, match=r"the manifest of x: layers\[1\]: size is negative"):
        parse_manifest(encoded(config=CONFIG, layers=[LAYER, {**LAYER, "size": -5}]), "the manifest of x")


def test_a_manifest_is_not_an_index() -> None:
    with pytest.raises(UntrustedDataError):
        parse_index(encoded(config=CONFIG))
