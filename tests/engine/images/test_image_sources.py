"""The source of all images: what it asks, what it checks, and its fake."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.images import mediatype
from engine.images.config import History
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.fake import FakeImageSource
from engine.images.layout_writer import LayoutWriter
from engine.images.manifest import Manifest
from engine.images.source import ImageSource, ImageSources
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError, UsageError
from machinefile.imageconfig import ImageConfig
from machinefile.platform import Platform, native
from machinefile.steps import BaseReference

AMD64 = Platform("linux", "amd64")


def base(text: str) -> BaseReference:
    return BaseReference(text, AMD64)


def sources(tmp_path: Path, **options: Any) -> ImageSources:
    return ImageSources(tmp_path, credentials=CredentialStore(()), **options)


def test_scratch_is_an_empty_image(tmp_path) -> None:
    with sources(tmp_path) as source:
        found = source.resolve(base("scratch"))
        assert (found.digest, found.layers) == ("", ())
        assert found.base.config == ImageConfig()
        assert found.configuration.platform == AMD64


def test_an_image_of_a_registry_is_resolved_and_fetched(tmp_path, fault_server, image) -> None:
    image.serve(fault_server, "tool", "1")
    with sources(tmp_path) as source:
        found = source.resolve(base(f"{fault_server.address}/tool:1"))
        parts: list[bytes] = []
        source.fetch_blob(found, found.layers[0].descriptor, parts.append)
    assert found.digest == image.digest
    assert found.manifest_bytes == image.data
    assert found.base.config.cmd == ("/bin/sh",)
    assert b"".join(parts) == image.layer


def test_what_is_stored_is_not_asked_for_again(tmp_path, fault_server, image) -> None:
    image.serve(fault_server, "tool", "1")
    with sources(tmp_path, stored=lambda digest, _: image.blobs.get(digest)) as source:
        assert source.resolve(base(f"{fault_server.address}/tool:1")).digest == image.digest
        assert [(seen.method, seen.path) for seen in fault_server.seen] == [("HEAD", "/v2/tool/manifests/1")]
        fault_server.seen.clear()
        source.resolve(base(f"{fault_server.address}/tool@{image.digest}"))
    assert fault_server.seen == []


def test_a_store_that_is_wrong_is_not_believed(tmp_path, fault_server, image) -> None:
    image.serve(fault_server, "tool", "1")
    with sources(tmp_path, stored=lambda digest, size: b"{}") as source:
        assert source.resolve(base(f"{fault_server.address}/tool:1")).digest == image.digest


def test_a_name_that_is_none_is_refused(tmp_path) -> None:
    with sources(tmp_path) as source, pytest.raises(UsageError) as caught:
        source.resolve(base("Not A Name"))
    assert caught.value.code == "reference-invalid"


def serve(server: Any, reply: Any, manifest: Manifest, config: bytes) -> str:
    server.on("/v2/odd/manifests/1", reply(200, manifest.to_json()))
    server.on(f"/v2/odd/manifests/{digest_of(manifest.to_json())}", reply(200, manifest.to_json()))
    server.on(f"/v2/odd/blobs/{manifest.config.digest}", reply(200, config))
    return f"{server.address}/odd:1"


def test_a_chart_is_not_an_image(tmp_path, fault_server, reply) -> None:
    config = Descriptor("application/vnd.cncf.helm.config.v1+json", digest_of(b"{}"), 2)
    name = serve(fault_server, reply, Manifest(config, ()), b"{}")
    with sources(tmp_path) as source, pytest.raises(UntrustedDataError) as caught:
        source.resolve(base(name))
    assert caught.value.code == "not-an-image"


def test_layers_and_diff_ids_must_be_as_many(tmp_path, fault_server, reply, image) -> None:
    config = Descriptor(mediatype.OCI_CONFIG, digest_of(b"{}"), 2)
    name = serve(fault_server, reply, Manifest(config, image.manifest.layers), b"{}")
    with sources(tmp_path) as source, pytest.raises(UntrustedDataError) as caught:
        source.resolve(base(name))
    assert caught.value.code == "layers-mismatch"


def test_a_configuration_without_end_is_not_even_asked_for(tmp_path, fault_server, reply) -> None:
    config = Descriptor(mediatype.OCI_CONFIG, digest_of(b"{}"), 1 << 40)
    name = serve(fault_server, reply, Manifest(config, ()), b"{}")
    with sources(tmp_path) as source, pytest.raises(UntrustedDataError) as caught:
        source.resolve(base(name))
    assert caught.value.code == "config-invalid"
    assert not any("/blobs/" in path for path in fault_server.paths())


def test_dockers_own_media_types_are_read(tmp_path, fault_server, reply) -> None:
    config = json.dumps({"config": {"Cmd": ["x"]}, "rootfs": {"type": "layers"}}).encode()
    pointer = Descriptor(mediatype.DOCKER_CONFIG, digest_of(config), len(config))
    name = serve(fault_server, reply, Manifest(pointer, (), mediatype.DOCKER_MANIFEST), config)
    with sources(tmp_path) as source:
        assert source.resolve(base(name)).base.config.cmd == ("x",)


def test_a_cancelled_build_stops_reading_a_layout(tmp_path, image) -> None:
    writer = LayoutWriter(tmp_path / "out")
    for data, kind in ((image.layer, mediatype.OCI_LAYER), (image.config, mediatype.OCI_CONFIG)):
        writer.add_bytes(data, kind)
    writer.add_manifest(image.manifest, tag="1")
    writer.commit()
    cancelled = threading.Event()
    with sources(tmp_path, cancelled=cancelled) as source:
        found = source.resolve(base("oci-layout:out"))
        cancelled.set()
        with pytest.raises(InterruptedBuildError):
            source.fetch_blob(found, found.layers[0].descriptor, bytearray().extend)


def test_the_fake_gives_what_was_added(tar_of) -> None:
    fake = FakeImageSource()
    layers = [tar_of({"a": b"1"}), tar_of({"b": b"2"})]
    config = ImageConfig(env=(("A", "1"),))
    digest = fake.add("debian:12", layers, config, history=[History(created_by="x")])
    source: ImageSource = fake
    found = source.resolve(BaseReference("debian:12", native()))
    parts: list[bytes] = []
    source.fetch_blob(found, found.layers[1].descriptor, parts.append)
    assert (found.digest, found.base.config) == (digest, config)
    assert parts == [layers[1]]
    assert fake.asked == ["debian:12"]
    assert fake.fetched == [digest_of(layers[1])]
    assert digest == FakeImageSource().add("other", layers, config, history=[History(created_by="x")])


def test_the_fake_knows_nothing_else() -> None:
    with pytest.raises(TransferError) as caught:
        FakeImageSource().resolve(base("debian:12"))
    assert caught.value.code == "image-not-found"
    assert FakeImageSource().resolve(base("scratch")).digest == ""


def test_nothing_slow_is_imported_before_a_registry_is_asked() -> None:
    slow = "('httpx', 'httpcore', 'h2', 'ssl', 'zstandard', 'tarfile')"
    code = f"import sys, engine.images.source; sys.exit(any(name in sys.modules for name in {slow}))"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=30).returncode == 0
