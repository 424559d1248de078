"""Registries that want to see a certificate before they say anything."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from pki import Pair, authority, encrypted, signed

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.policy import RegistrySettings
from engine.images.reference import Reference
from engine.images.registry_config import RegistryEntry, parse
from machinefile.errors import MbuildError, TransferError, UsageError

DATA = b"a layer"
BLOB = Descriptor(mediatype.OCI_LAYER, digest_of(DATA), len(DATA))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pki")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Pair:
    return authority(folder)


@pytest.fixture(scope="module")
def server_pair(folder: Path, ours: Pair) -> Pair:
    return signed(folder, ours, "server", "localhost")


@pytest.fixture(scope="module")
def client_pair(folder: Path, ours: Pair) -> Pair:
    return signed(folder, ours, "client")


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["tls1.2", "tls1.3"])
def demanding(fault_server: Any, reply: Any, ours: Pair, server_pair: Pair, request: pytest.FixtureRequest) -> Any:
    """A server that shuts the door on whoever shows no certificate of our authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = request.param
    context.load_cert_chain(server_pair.certificate, server_pair.key)
    context.load_verify_locations(ours.certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    fault_server.wrap(context)
    fault_server.on(f"/v2/tool/blobs/{BLOB.digest}", reply(200, DATA))
    return fault_server


def fetch(new_client: Any, server: Any, settings: RegistrySettings) -> bytes:
    parts: list[bytes] = []
    new_client(settings=settings).blob(Reference.parse(f"{server.address}/tool:1"), BLOB, parts.append)
    return b"".join(parts)


def entry(server: Any, ours: Pair, pair: Pair | None) -> RegistryEntry:
    identity = (pair.certificate, pair.key) if pair else None
    return RegistryEntry(server.address, plain_http=False, ca=(ours.certificate,), identity=identity)


def test_the_certificate_of_the_configuration_file_opens_the_door(demanding, new_client, ours, client_pair) -> None:
    text = f"""
        [registry."{demanding.address}"]
        plain-http = false
        ca = "{ours.certificate.name}"
        client-cert = "{client_pair.certificate.name}"
        client-key = "{client_pair.key}"
    """
    entries = parse(text.encode(), ours.certificate.parent / "registries.toml")
    assert fetch(new_client, demanding, RegistrySettings(entries=entries)) == DATA


def test_the_certificate_beside_dockers_opens_the_door(demanding, new_client, tmp_path, ours, client_pair) -> None:
    place = tmp_path / demanding.address
    place.mkdir()
    for source, name in (
        (ours.certificate, "ca.crt"),
        (client_pair.certificate, "client.cert"),
        (client_pair.key, "client.key"),
    ):
        (place / name).write_bytes(source.read_bytes())
    entries = (RegistryEntry(demanding.address, plain_http=False),)
    settings = RegistrySettings(entries=entries, certificate_folders=(tmp_path,))
    assert fetch(new_client, demanding, settings) == DATA


def test_without_a_certificate_the_door_stays_shut_and_the_reason_is_told(demanding, new_client, ours) -> None:
    with pytest.raises(TransferError) as caught:
        fetch(new_client, demanding, RegistrySettings(entries=(entry(demanding, ours, None),)))
    assert caught.value.code == "registry-unauthorized"
    assert "client-cert" in caught.value.hint
    assert demanding.seen == []


def test_a_certificate_of_somebody_elses_is_refused(demanding, new_client, tmp_path, ours) -> None:
    strange = signed(tmp_path, authority(tmp_path, "stranger"), "client")
    with pytest.raises(TransferError) as caught:
        fetch(new_client, demanding, RegistrySettings(entries=(entry(demanding, ours, strange),)))
    assert caught.value.code == "registry-unauthorized"
    assert demanding.seen == []


def test_a_certificate_without_a_key_is_named(tmp_path) -> None:
    (tmp_path / "a.example").mkdir()
    (tmp_path / "a.example" / "client.cert").touch()
    with pytest.raises(UsageError, match=r"client\.key") as caught:
        RegistrySettings(certificate_folders=(tmp_path,)).trust("a.example")
    assert caught.value.code == "registry-config-invalid"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_is_for_root_alone_is_not_ours(tmp_path) -> None:
    (tmp_path / "a.example").mkdir()
    (tmp_path / "a.example" / "client.cert").touch()
    (tmp_path / "a.example" / "client.key").touch(mode=0)
    assert RegistrySettings(certificate_folders=(tmp_path,)).trust("a.example").identities == ()


def test_the_configuration_file_counts_before_dockers_folders(tmp_path, client_pair) -> None:
    (tmp_path / "a.example").mkdir()
    for name in ("b.cert", "b.key", "a.cert", "a.key"):
        (tmp_path / "a.example" / name).touch()
    own = (client_pair.certificate, client_pair.key)
    settings = RegistrySettings(entries=(RegistryEntry("a.example", identity=own),), certificate_folders=(tmp_path,))
    place = tmp_path / "a.example"
    assert settings.trust("a.example").identities == (
        own,
        (place / "a.cert", place / "a.key"),
        (place / "b.cert", place / "b.key"),
    )


@pytest.mark.parametrize("how", ["missing", "empty", "another's", "encrypted"])
def test_a_key_that_cannot_be_used_is_named(new_client, tmp_path, ours, client_pair, server_pair, how: str) -> None:
    key = tmp_path / "own.key"
    if how == "empty":
        key.touch()
    elif how == "another's":
        key.write_bytes(server_pair.key.read_bytes())
    elif how == "encrypted":
        encrypted(client_pair, key)
    settings = RegistrySettings(
        entries=(RegistryEntry("127.0.0.1:9", plain_http=False, identity=(client_pair.certificate, key)),)
    )
    with pytest.raises(MbuildError) as caught:
        new_client(settings=settings).resolve(Reference.parse("127.0.0.1:9/tool:1"))
    assert caught.value.code == "registry-config-invalid"
    assert str(key) in caught.value.message
