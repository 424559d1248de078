"""A real registry that believes tokens alone: what is asked for, how often, and by whom."""

from __future__ import annotations

import base64
import io
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from token_service import TokenService

from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest
from engine.images.policy import RegistrySettings
from engine.images.push import Pushed, push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from machinefile.errors import TransferError

pytestmark = pytest.mark.registry

LAYERS = [random.Random(seed).randbytes(1 << 19) for seed in (41, 42, 43)]
ADA = "Basic " + base64.b64encode(b"ada:lovelace").decode()


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenService]:
    service = TokenService(tmp_path)
    yield service
    service.stop()


@pytest.fixture
def guarded(start_registry: Any, tokens: TokenService) -> Any:
    return start_registry(auth=tokens.configuration)


@pytest.fixture
def login(tmp_path: Path, guarded: Any) -> Path:
    file = tmp_path / "config.json"
    packed = base64.b64encode(b"ada:lovelace").decode()
    file.write_text(json.dumps({"auths": {guarded.address: {"auth": packed}}}))
    return file


@pytest.fixture
def connect() -> Iterator[Callable[..., RegistryClient]]:
    made: list[RegistryClient] = []

    def new(*files: Path) -> RegistryClient:
        made.append(RegistryClient(credentials=CredentialStore(files), settings=RegistrySettings()))
        return made[-1]

    yield new
    for client in made:
        client.__exit__(None, None, None)


def push(client: RegistryClient, registry: Any, name: str, **options: Any) -> Pushed:
    blobs = {digest_of(data): data for data in (*LAYERS, b"{}")}
    *layers, config = (Descriptor(mediatype.OCI_LAYER, digest, len(data)) for digest, data in blobs.items())
    manifest = Manifest(config, tuple(layers)).to_json()
    reference = Reference.parse(f"{registry.address}/{name}")
    return push_image(client, reference, manifest, lambda digest: io.BytesIO(blobs[digest]), **options)


def pull(client: RegistryClient, registry: Any, name: str) -> None:
    reference = Reference.parse(f"{registry.address}/{name}")
    assert client.resolve(reference)
    for data in LAYERS:
        got = bytearray()
        client.blob(reference, Descriptor("", digest_of(data), len(data)), got.extend)
        assert got == data


def test_one_token_serves_a_whole_push_and_one_a_whole_pull(connect, guarded, tokens, login) -> None:
    client = connect(login)
    assert push(client, guarded, "team/app:1").sent == 4
    assert tokens.asked == [(("repository:team/app:pull,push",), ADA)]
    pull(client, guarded, "team/app:1")
    assert tokens.asked[1:] == [(("repository:team/app:pull",), ADA)]


def test_a_mount_asks_for_both_repositories(connect, guarded, tokens, login) -> None:
    client = connect(login)
    push(client, guarded, "team/base:1")
    done = push(client, guarded, "team/derived:1", origins=lambda digest: ["team/base"])
    assert (done.mounted, done.sent) == (4, 0)
    assert (("repository:team/derived:pull,push", "repository:team/base:pull"), ADA) in tokens.asked


def test_a_token_that_runs_out_is_renewed_before_it_is_refused(connect, guarded, tokens, login) -> None:
    tokens.said_life = 1
    client = connect(login)
    push(client, guarded, "team/short:1")
    time.sleep(1)
    before = len(tokens.asked)
    pull(client, guarded, "team/short:1")
    time.sleep(1)
    pull(client, guarded, "team/short:1")
    assert len(tokens.asked) >= before + 2


def test_a_token_that_the_registry_refuses_is_renewed(connect, guarded, tokens, login) -> None:
    """The service says that it is good for long; the registry's clock, with a minute's grace, knows better."""
    push(connect(login), guarded, "team/old:1")
    client = connect(login)
    tokens.life, tokens.said_life = -61, 300
    with pytest.raises(TransferError) as caught:
        pull(client, guarded, "team/old:1")
    assert caught.value.code == "registry-unauthorized"
    tokens.life = 300
    pull(client, guarded, "team/old:1")


def test_who_has_no_login_may_read_and_not_write(connect, guarded, tokens, login) -> None:
    push(connect(login), guarded, "team/public:1")
    anonymous = connect()
    pull(anonymous, guarded, "team/public:1")
    with pytest.raises(TransferError) as caught:
        push(anonymous, guarded, "team/public:2")
    assert caught.value.code == "registry-unauthorized"
    assert all(login in ("", ADA) for _, login in tokens.asked)


def test_a_credential_helper_gives_the_login(connect, guarded, tokens, tmp_path, monkeypatch) -> None:
    program = tmp_path / "bin" / "docker-credential-shelf"
    program.parent.mkdir()
    answer = '{"ServerURL": "x", "Username": "ada", "Secret": "lovelace"}'
    program.write_text(f"#!/bin/sh\nread server\necho \"$server\" >> {tmp_path}/servers\necho '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    file = tmp_path / "helpers.json"
    file.write_text(json.dumps({"credHelpers": {guarded.address: "shelf"}}))
    client = connect(file)
    push(client, guarded, "team/helped:1")
    pull(client, guarded, "team/helped:1")
    # Once for each repository: a login may be for a part of a registry.
    assert (tmp_path / "servers").read_text().split() == [guarded.address]
