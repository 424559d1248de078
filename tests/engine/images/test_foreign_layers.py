"""Layers that a manifest has elsewhere, at addresses that its author chose."""

from __future__ import annotations

import base64
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache.store import Store
from engine.bases import Bases
from engine.events import ignore
from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.reference import Reference
from engine.images.source import ImageSources
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.platform import Platform
from machinefile.steps import BaseReference

DATA = bytes(range(256)) * 40
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
PATH = "/somewhere/else.tar"


def foreign(*urls: str, data: bytes = DATA) -> Descriptor:
    return Descriptor(FOREIGN, digest_of(data), len(data), urls=urls)


def fetch(client: Any, server: Any, descriptor: Descriptor) -> bytes:
    parts: list[bytes] = []
    client.blob(Reference.parse(f"{server.address}/tool:1"), descriptor, parts.append)
    return b"".join(parts)


def blob_path(descriptor: Descriptor) -> str:
    return f"/v2/tool/blobs/{descriptor.digest}"


def test_what_the_registry_does_not_have_comes_from_its_address(new_client, fault_server, other_server, reply) -> None:
    other_server.on(PATH, reply(200, DATA))
    assert fetch(new_client(), fault_server, foreign(other_server.url + PATH)) == DATA
    assert len(fault_server.seen) == len(other_server.seen) == 1


def test_what_the_registry_has_comes_from_there(new_client, fault_server, other_server, reply) -> None:
    layer = foreign(other_server.url + PATH)
    fault_server.on(blob_path(layer), reply(200, DATA))
    assert fetch(new_client(), fault_server, layer) == DATA
    assert other_server.seen == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_however_the_registry_says_no_the_address_is_asked(
    new_client, fault_server, other_server, reply, status: int
) -> None:
    layer = foreign(other_server.url + PATH)
    fault_server.on(blob_path(layer), reply(status))
    other_server.on(PATH, reply(200, DATA))
    assert fetch(new_client(), fault_server, layer) == DATA


def test_of_several_addresses_the_first_that_has_it_serves(new_client, fault_server, other_server, reply) -> None:
    urls = (f"{other_server.url}/gone", f"{other_server.url}/broken", other_server.url + PATH, f"{other_server.url}/x")
    other_server.on("/broken", reply(500))
    other_server.on(PATH, reply(200, DATA))
    assert fetch(new_client(), fault_server, foreign(*urls)) == DATA
    assert f"{PATH}" in other_server.paths()
    assert "/x" not in other_server.paths()


def test_a_download_that_is_cut_goes_on_where_it_was_cut(new_client, fault_server, other_server, reply) -> None:
    told = {"Content-Range": f"bytes 4000-{len(DATA) - 1}/{len(DATA)}"}
    other_server.on(PATH, [reply(200, DATA, cut=4000), reply(206, DATA[4000:], told)])
    assert fetch(new_client(), fault_server, foreign(other_server.url + PATH)) == DATA
    assert [seen.headers.get("range") for seen in other_server.seen] == [None, "bytes=4000-"]


def test_a_busy_server_is_asked_again(new_client, fault_server, other_server, reply) -> None:
    other_server.on(PATH, [reply(429, headers={"Retry-After": "0"}), reply(503), reply(200, DATA)])
    assert fetch(new_client(), fault_server, foreign(other_server.url + PATH)) == DATA


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"!" + DATA[1:], "digest-mismatch"), (DATA + b"!", "blob-too-long"), (DATA[:-1], "blob-truncated")],
)
def test_what_is_not_the_layer_is_refused(
    new_client, fault_server, other_server, reply, body: bytes, code: str
) -> None:
    other_server.on(PATH, reply(200, body))
    with pytest.raises(UntrustedDataError) as caught:
        fetch(new_client(), fault_server, foreign(other_server.url + PATH))
    assert caught.value.code == code


def test_no_login_goes_there(new_client, fault_server, other_server, reply, tmp_path: Path) -> None:
    layer = foreign(other_server.url + PATH)
    other_server.on(PATH, reply(200, DATA))
    asks = reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
    fault_server.on(blob_path(layer), lambda seen: reply(404) if "authorization" in seen.headers else asks)
    file = tmp_path / "config.json"
    packed = base64.b64encode(b"ada:lovelace").decode()
    file.write_text(json.dumps({"auths": {name: {"auth": packed} for name in (fault_server.address, "127.0.0.1")}}))
    assert fetch(new_client(file), fault_server, layer) == DATA
    assert "authorization" in fault_server.seen[-1].headers
    assert all("authorization" not in seen.headers for seen in other_server.seen)


def test_redirects_end(new_client, fault_server, other_server, reply) -> None:
    other_server.on(PATH, reply(302, headers={"Location": PATH}))
    with pytest.raises(TransferError, match="without end"):
        fetch(new_client(), fault_server, foreign(other_server.url + PATH))
    assert len(other_server.seen) < 10


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://",
        "http://[::1/x",
        "//host/x",
        "",
        "http://ada:lovelace@127.0.0.1/x",
        "http://169.254.169.254/latest/meta-data/",
    ],
)
def test_an_address_that_is_none_of_ours_is_not_asked(new_client, fault_server, url: str) -> None:
    with pytest.raises(TransferError) as caught:
        fetch(new_client(), fault_server, foreign(url))
    assert caught.value.code == "blob-not-found"


def test_an_image_from_elsewhere_does_not_reach_this_machine(new_client, fault_server, other_server, reply) -> None:
    """Its author could otherwise make mbuild ask whatever listens here."""
    other_server.on(PATH, reply(200, DATA))
    layer = foreign(other_server.url + PATH)
    with pytest.raises(TransferError) as caught:
        new_client().blob(Reference.parse("nowhere.invalid/tool:1"), layer, lambda data: None)
    assert caught.value.code == "blob-not-found"
    assert other_server.seen == []


def test_without_addresses_the_registrys_word_counts(new_client, fault_server) -> None:
    with pytest.raises(TransferError) as caught:
        fetch(new_client(), fault_server, foreign())
    assert caught.value.code == "blob-not-found"


def test_a_base_with_a_foreign_layer_is_pulled_and_its_layer_is_ours_from_then_on(
    tmp_path, fault_server, other_server, image, reply
) -> None:
    (layer,) = image.manifest.layers
    elsewhere = replace(layer, media_type=FOREIGN.removesuffix(".gzip"), urls=(other_server.url + PATH,))
    changed = replace(image, manifest=replace(image.manifest, layers=(elsewhere,)))
    changed.serve(fault_server, "tool", "1")
    fault_server.on(blob_path(layer), reply(404))
    other_server.on(PATH, reply(200, image.layer))
    with (
        ImageSources(tmp_path, credentials=CredentialStore(())) as source,
        Store(tmp_path / "store") as store,
    ):
        bases = Bases(store, source, ignore)
        base = bases.get(BaseReference(f"{fault_server.address}/tool:1", Platform("linux", "amd64")))
        bases.pull_all(base)
        assert store.blobs.read(layer.digest) == image.layer
        assert [one.media_type for one in base.layers] == [mediatype.OCI_LAYER]


LOOPBACKS = [
    "127.1",
    "0.0.0.0",
    "2130706433",
    "[::ffff:127.0.0.1]",
    "[::]",
    "localhost",
    "local.example",
    "both.example",
]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """`local.example` leads to this machine, `both.example` also elsewhere, `cloud.example` to a link-local address."""
    known = {
        "local.example": ["127.0.0.1"],
        "both.example": ["198.51.100.1", "::1"],
        "cloud.example": ["169.254.169.254"],
    }
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        found = known.get(host, [host])
        return [answer for address in found for answer in real(address, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("host", LOOPBACKS)
def test_however_this_machine_is_written_it_is_not_reached(new_client, other_server, reply, names, host: str) -> None:
    other_server.on(PATH, reply(200, DATA))
    port = other_server.address.rpartition(":")[2]
    with pytest.raises(TransferError) as caught:
        new_client().blob(
            Reference.parse("nowhere.invalid/tool:1"), foreign(f"http://{host}:{port}{PATH}"), lambda data: None
        )
    assert caught.value.code == "blob-not-found"
    assert other_server.seen == []


@pytest.mark.parametrize("host", ["[::ffff:169.254.169.254]", "cloud.example", "0.0.0.0", "224.0.0.1"])
def test_not_even_a_redirect_leads_to_a_special_address(
    new_client, fault_server, other_server, reply, names, host: str
) -> None:
    other_server.on(PATH, reply(302, headers={"Location": f"http://{host}/x"}))
    with pytest.raises(TransferError, match="which is not asked"):
        fetch(new_client(), fault_server, foreign(other_server.url + PATH))


def test_a_redirect_to_where_a_layer_may_be_is_followed(new_client, fault_server, other_server, reply) -> None:
    other_server.on(PATH, reply(302, headers={"Location": "/there"}))
    other_server.on("/there", reply(200, DATA))
    assert fetch(new_client(), fault_server, foreign(other_server.url + PATH)) == DATA
