"""Mirrors at work: asked first, left when they fail, never pushed to."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from engine.events import Event, Note
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.policy import RegistrySettings
from engine.images.push import push_image
from engine.images.reference import Reference
from engine.images.registry_config import Mirror, RegistryEntry
from machinefile.errors import TransferError, UntrustedDataError

DATA = bytes(range(256)) * 40
BLOB = Descriptor(mediatype.OCI_LAYER, digest_of(DATA), len(DATA))


def settings(server: Any, *mirrors: Any, prefix: str = "") -> RegistrySettings:
    found = tuple(Mirror(mirror.address, prefix) for mirror in mirrors)
    return RegistrySettings(entries=(RegistryEntry(server.address, found),))


def tool(server: Any) -> Reference:
    return Reference.parse(f"{server.address}/tool:1")


def fetch(client: Any, server: Any) -> bytes:
    parts: list[bytes] = []
    client.blob(tool(server), BLOB, parts.append)
    return b"".join(parts)


def test_a_mirror_is_asked_first(new_client, fault_server, other_server, image) -> None:
    image.serve(other_server, "hub/tool", "1")
    client = new_client(settings=settings(fault_server, other_server, prefix="hub"))
    found = client.resolve(tool(fault_server))
    assert found.digest == image.digest
    assert client.manifest(tool(fault_server), found.digest) == image.data
    got = bytearray()
    client.blob(tool(fault_server), image.manifest.layers[0], got.extend)
    assert got == image.layer
    assert fault_server.seen == []


def test_what_a_mirror_does_not_have_comes_from_the_registry(
    new_client, fault_server, other_server, image, reply
) -> None:
    image.serve(fault_server, "tool", "1")
    other_server.on(f"/v2/tool/blobs/{image.manifest.layers[0].digest}", reply(200, image.layer))
    events: list[Event] = []
    client = new_client(settings=settings(fault_server, other_server), observer=events.append)
    assert client.resolve(tool(fault_server)).digest == image.digest
    got = bytearray()
    client.blob(tool(fault_server), image.manifest.layers[0], got.extend)
    assert got == image.layer
    assert not any("/blobs/" in path for path in fault_server.paths())
    assert not any(isinstance(event, Note) for event in events)


def test_a_mirror_that_fails_is_left_alone_and_the_user_told_once(
    new_client, fault_server, other_server, image, reply
) -> None:
    image.serve(fault_server, "tool", "1")
    for target in ("1", image.digest):
        other_server.on(f"/v2/tool/manifests/{target}", reply(500))
    events: list[Event] = []
    client = new_client(settings=settings(fault_server, other_server), observer=events.append)
    digest = client.resolve(tool(fault_server)).digest
    asked = len(other_server.seen)
    assert client.manifest(tool(fault_server), digest) == image.data
    assert len(other_server.seen) == asked
    (note,) = [event for event in events if isinstance(event, Note)]
    assert other_server.address in note.message


def test_a_mirror_that_nobody_answers_for_is_left(new_client, fault_server, image) -> None:
    image.serve(fault_server, "tool", "1")
    gone = RegistrySettings(entries=(RegistryEntry(fault_server.address, (Mirror("127.0.0.1:9"),)),))
    assert new_client(settings=gone).resolve(tool(fault_server)).digest == image.digest


def test_a_mirror_that_lies_about_a_manifest_is_left(new_client, fault_server, other_server, image, reply) -> None:
    image.serve(fault_server, "tool", "1")
    other_server.on(f"/v2/tool/manifests/{image.digest}", reply(200, b"{}"))
    client = new_client(settings=settings(fault_server, other_server))
    assert client.manifest(tool(fault_server), image.digest) == image.data


def test_the_registry_goes_on_where_a_mirror_stopped(new_client, fault_server, other_server, reply) -> None:
    path = f"/v2/tool/blobs/{BLOB.digest}"
    other_server.on(path, [reply(200, DATA, cut=4000), reply(500)])
    told = {"Content-Range": f"bytes 4000-{len(DATA) - 1}/{len(DATA)}"}
    fault_server.on(path, reply(206, DATA[4000:], told))
    assert fetch(new_client(settings=settings(fault_server, other_server)), fault_server) == DATA
    assert [seen.headers.get("range") for seen in fault_server.seen] == ["bytes=4000-"]


def test_a_mirror_that_serves_too_much_is_left(new_client, fault_server, other_server, reply) -> None:
    path = f"/v2/tool/blobs/{BLOB.digest}"
    told = {"Content-Range": f"bytes 5000-{len(DATA)}/*"}
    other_server.on(path, [reply(200, DATA, cut=5000), reply(206, DATA[5000:] + b"!", told)])
    fault_server.on(path, reply(200, DATA))
    assert fetch(new_client(settings=settings(fault_server, other_server)), fault_server) == DATA


def test_wrong_bytes_from_a_mirror_are_refused_and_the_mirror_named(
    new_client, fault_server, other_server, reply
) -> None:
    path = f"/v2/tool/blobs/{BLOB.digest}"
    other_server.on(path, reply(200, b"!" + DATA[1:]))
    fault_server.on(path, reply(200, DATA))
    events: list[Event] = []
    client = new_client(settings=settings(fault_server, other_server), observer=events.append)
    with pytest.raises(UntrustedDataError) as caught:
        fetch(client, fault_server)
    assert caught.value.code == "digest-mismatch"
    assert any(isinstance(event, Note) and other_server.address in event.message for event in events)
    assert fetch(client, fault_server) == DATA, "it is not asked again"


def test_the_error_of_the_registry_itself_counts(new_client, fault_server, other_server, reply) -> None:
    other_server.on("/v2/tool/manifests/1", reply(500))
    with pytest.raises(TransferError) as caught:
        new_client(settings=settings(fault_server, other_server)).resolve(tool(fault_server))
    assert caught.value.code == "image-not-found"


def test_a_mirror_does_not_see_the_registrys_password(
    new_client, fault_server, other_server, reply, tmp_path: Path
) -> None:
    packed = base64.b64encode(b"ada:lovelace").decode()
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {fault_server.address: {"auth": packed}}}))
    other_server.on(f"/v2/tool/blobs/{BLOB.digest}", reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    fault_server.on(f"/v2/tool/blobs/{BLOB.digest}", reply(200, DATA))
    assert fetch(new_client(file, settings=settings(fault_server, other_server)), fault_server) == DATA
    assert other_server.seen
    assert all("authorization" not in seen.headers for seen in other_server.seen)


def test_nothing_is_pushed_to_a_mirror(new_client, fault_server, other_server, image) -> None:
    with pytest.raises(TransferError) as caught:
        push_image(
            new_client(settings=settings(fault_server, other_server)),
            tool(fault_server),
            image.data,
            lambda digest: io.BytesIO(image.blobs[digest]),
        )
    assert caught.value.code == "push-refused"
    assert fault_server.seen
    assert other_server.seen == []
