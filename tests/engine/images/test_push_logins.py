"""Who gets to see a password while an image is pushed."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from push_registry import Fault, PushRegistry, Request

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest
from engine.images.policy import RegistrySettings
from engine.images.push import Pushed, push_image
from engine.images.reference import Reference
from engine.images.registry_config import RegistryEntry
from machinefile.errors import TransferError

LAYER = random.Random(8).randbytes(1 << 20)
CONFIG = b"{}"
MANIFEST = Manifest(
    Descriptor(mediatype.OCI_CONFIG, digest_of(CONFIG), len(CONFIG)),
    (Descriptor(mediatype.OCI_LAYER, digest_of(LAYER), len(LAYER)),),
)
ADA = "Basic " + base64.b64encode(b"ada:lovelace").decode()
BLOBS = {digest_of(CONFIG): CONFIG, digest_of(LAYER): LAYER}


def open_blob(digest: str) -> BinaryIO:
    return io.BytesIO(BLOBS[digest])


@pytest.fixture
def registry() -> Iterator[PushRegistry]:
    running = PushRegistry()
    yield running
    running.stop()


@pytest.fixture
def elsewhere() -> Iterator[PushRegistry]:
    """Another host, as far as HTTP is concerned."""
    running = PushRegistry()
    yield running
    running.stop()


@pytest.fixture
def login(tmp_path: Path, registry: PushRegistry) -> Path:
    file = tmp_path / "auth.json"
    packed = base64.b64encode(b"ada:lovelace").decode()
    file.write_text(json.dumps({"auths": {registry.address: {"auth": packed}}}))
    return file


def push(client: Any, address: str, **options: Any) -> Pushed:
    return push_image(client, Reference.parse(f"{address}/app:1"), MANIFEST.to_json(), open_blob, **options)


def test_a_registry_with_passwords_takes_a_push(registry, login, new_client) -> None:
    def guard(request: Request) -> Fault | None:
        known = request.headers.get("authorization") == ADA
        return None if known else Fault(401, {"WWW-Authenticate": 'Basic realm="x"'})

    registry.trouble = guard
    assert push(new_client(login), registry.address).sent == 2
    with pytest.raises(TransferError) as caught:
        push(new_client(), registry.address)
    assert caught.value.code == "registry-unauthorized"
    assert "log in" in caught.value.hint


class Tokens:
    """Gives tokens, of which the last one given is good."""

    def __init__(self, registry: PushRegistry) -> None:
        self.registry = registry
        self.asked: list[str] = []
        self.good = ""
        self.ends_at = ("", "")
        """At the first request of that method and path the token turns out to have run out."""
        registry.trouble = self.guard
        registry.handlers["/token"] = self.grant

    def grant(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        self.good = f"t{len(self.asked)}"
        self.asked.append(request.query["scope"])
        return 200, {}, json.dumps({"token": self.good}).encode()

    def guard(self, request: Request) -> Fault | None:
        method, part = self.ends_at
        if request.method == method and part in request.path:
            self.good, self.ends_at = "", ("", "")
        if request.path == "/token" or (self.good and request.headers.get("authorization") == f"Bearer {self.good}"):
            return None
        realm = f"http://{self.registry.address}/token"
        return Fault(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'})


def test_a_token_is_asked_for_that_may_push(registry, new_client) -> None:
    tokens = Tokens(registry)
    push(new_client(), registry.address)
    assert tokens.asked == ["repository:app:pull,push"]


@pytest.mark.parametrize("where", [("POST", "uploads"), ("PATCH", "uploads"), ("PUT", "uploads"), ("PUT", "manifests")])
def test_a_token_that_runs_out_during_a_push_is_renewed(registry, new_client, where: tuple[str, str]) -> None:
    tokens = Tokens(registry)
    tokens.ends_at = where
    manifest = Manifest(Descriptor(mediatype.OCI_CONFIG, digest_of(LAYER), len(LAYER)), ())
    push_image(new_client(), Reference.parse(f"{registry.address}/app:1"), manifest.to_json(), open_blob)
    assert registry.blobs["app", digest_of(LAYER)] == LAYER
    assert registry.manifests["app", "1"] == manifest.to_json()
    assert len(tokens.asked) == 2


def test_a_token_for_a_mount_may_read_there_too(registry, new_client) -> None:
    scopes: list[list[str]] = []

    def grant(request: Request) -> tuple[int, dict[str, str], bytes]:
        scopes.append(request.queries["scope"])
        return 200, {}, b'{"token": "one"}'

    tokens = Tokens(registry)
    tokens.good = "one"
    registry.handlers["/token"] = grant
    registry.blobs["base", digest_of(LAYER)] = LAYER
    done = push(new_client(), registry.address, origins=lambda digest: ["base"] if digest == digest_of(LAYER) else [])
    assert done.mounted == 1
    assert ["repository:app:pull,push", "repository:base:pull"] in scopes


@pytest.mark.parametrize("refusal", [401, 403])
def test_a_password_does_not_follow_an_upload_to_another_host(
    registry, elsewhere, login, new_client, refusal: int
) -> None:
    def guard(request: Request) -> Fault | None:
        known = request.headers.get("authorization") == ADA
        return None if known else Fault(401, {"WWW-Authenticate": 'Basic realm="x"'})

    registry.trouble = guard
    registry.location = f"http://{elsewhere.address}/v2/{{repository}}/blobs/uploads/{{id}}"
    elsewhere.uploads, elsewhere.blobs = registry.uploads, registry.blobs
    assert push(new_client(login), registry.address).sent == 2
    assert registry.blobs["app", digest_of(LAYER)] == LAYER
    assert {one.method for one in elsewhere.seen} == {"PATCH", "PUT"}
    assert all("authorization" not in one.headers for one in elsewhere.seen)

    registry.blobs.clear()
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    elsewhere.trouble = lambda request: Fault(refusal, challenge)
    with pytest.raises(TransferError) as caught:
        push(new_client(login), registry.address)
    assert caught.value.code == "push-refused"
    assert all("authorization" not in one.headers for one in elsewhere.seen)


def test_an_upload_does_not_leave_tls(registry, elsewhere, login, new_client, certificate) -> None:
    registry.secure(certificate)
    plain = (RegistryEntry(elsewhere.address, plain_http=False),)
    settings = RegistrySettings(
        entries=(RegistryEntry(registry.address, plain_http=False, ca=(certificate[1],)), *plain)
    )
    registry.location = f"http://{elsewhere.address}/v2/{{repository}}/blobs/uploads/{{id}}"
    with pytest.raises(TransferError, match="from TLS to plain HTTP") as caught:
        push(new_client(login, settings=settings), registry.address)
    assert caught.value.code == "registry-failed"
    assert elsewhere.seen == []
    registry.location = "/v2/{repository}/blobs/uploads/{id}"
    assert push(new_client(login, settings=settings), registry.address).sent == 2
