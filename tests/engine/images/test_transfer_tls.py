"""Registries behind TLS: whose certificate is trusted, and that nothing leaves TLS unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.policy import RegistrySettings
from engine.images.reference import Reference
from machinefile.errors import TransferError

DATA = b"a layer"
BLOB = Descriptor(mediatype.OCI_LAYER, digest_of(DATA), len(DATA))
BLOB_PATH = f"/v2/tool/blobs/{BLOB.digest}"


@pytest.fixture
def secure(fault_server: Any, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The server behind TLS, and loopback not taken for plain HTTP."""
    fault_server.secure(certificate)
    monkeypatch.setattr(RegistrySettings, "is_plain", lambda self, registry: registry in self.insecure)
    return fault_server


def fetch(client: Any, server: Any) -> bytes:
    parts: list[bytes] = []
    client.blob(Reference.parse(f"localhost:{server.address.partition(':')[2]}/tool:1"), BLOB, parts.append)
    return b"".join(parts)


def test_a_certificate_in_ssl_cert_file_is_trusted(secure, new_client, reply, certificate, monkeypatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    secure.on(BLOB_PATH, reply(200, DATA))
    assert fetch(new_client(), secure) == DATA


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once(secure, new_client, monkeypatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with pytest.raises(TransferError) as caught:
        fetch(new_client(), secure)
    assert caught.value.code == "registry-untrusted-certificate"
    assert "SSL_CERT_FILE" in caught.value.hint
    assert secure.seen == []


def test_a_redirect_out_of_tls_is_refused(secure, other_server, new_client, reply, certificate, monkeypatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    secure.on(BLOB_PATH, reply(307, headers={"Location": f"{other_server.url}/s"}))
    other_server.on("/s", reply(200, DATA))
    with pytest.raises(TransferError, match="from TLS to plain HTTP") as caught:
        fetch(new_client(), secure)
    assert caught.value.code == "registry-failed"
    assert other_server.seen == []
