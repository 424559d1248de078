"""Logins, redirects and proxies: who gets to see a password, and who does not."""

from __future__ import annotations

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.policy import RegistrySettings, is_loopback
from engine.images.reference import Reference
from machinefile.errors import TransferError

DATA = bytes(range(256)) * 40
BLOB = Descriptor(mediatype.OCI_LAYER, digest_of(DATA), len(DATA))
BLOB_PATH = f"/v2/tool/blobs/{BLOB.digest}"


def fetch(client: Any, server: Any) -> bytes:
    parts: list[bytes] = []
    client.blob(Reference.parse(f"{server.address}/tool:1"), BLOB, parts.append)
    return b"".join(parts)


# Logins


def login(tmp_path: Path, registry: str, user: str, password: str) -> Path:
    file = tmp_path / "auth.json"
    packed = base64.b64encode(f"{user}:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {registry: {"auth": packed}}}))
    return file


def guarded(server: Any, reply: Any, challenge: str, accepted: str) -> None:
    """A blob for those who show the right header."""

    def answer(seen: Any) -> Any:
        if seen.headers.get("authorization") == accepted:
            return reply(200, DATA)
        return reply(401, headers={"WWW-Authenticate": challenge})

    server.on(BLOB_PATH, answer)


ADA = "Basic " + base64.b64encode(b"ada:lovelace").decode()


def test_basic_credentials_are_sent_when_asked_for(new_client, fault_server, reply, tmp_path) -> None:
    guarded(fault_server, reply, 'Basic realm="x"', ADA)
    client = new_client(login(tmp_path, fault_server.address, "ada", "lovelace"))
    assert fetch(client, fault_server) == DATA
    assert fetch(client, fault_server) == DATA
    assert [seen.headers.get("authorization") for seen in fault_server.seen] == [None, ADA, ADA]


def test_wrong_credentials_are_not_tried_again_and_again(new_client, fault_server, reply, tmp_path) -> None:
    guarded(fault_server, reply, 'Basic realm="x"', ADA)
    with pytest.raises(TransferError, match="refused the credentials") as caught:
        fetch(new_client(login(tmp_path, fault_server.address, "ada", "wrong")), fault_server)
    assert caught.value.code == "registry-unauthorized"
    assert len(fault_server.seen) == 2


def test_a_login_that_is_missing_is_asked_for(new_client, fault_server, reply) -> None:
    guarded(fault_server, reply, 'Basic realm="x"', ADA)
    with pytest.raises(TransferError, match="wants a login") as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "registry-unauthorized"
    assert "log in" in caught.value.hint


def bearer(server: Any) -> str:
    return f'Bearer realm="{server.url}/token",service="s & t",scope="repository:tool:pull"'


def test_an_anonymous_token_is_fetched_once(new_client, fault_server, reply) -> None:
    guarded(fault_server, reply, bearer(fault_server), "Bearer abc")
    fault_server.on("/token", reply(200, b'{"token": "abc"}'))
    client = new_client()
    assert fetch(client, fault_server) == DATA
    assert fetch(client, fault_server) == DATA
    (asked,) = [path for path in fault_server.paths() if path.startswith("/token")]
    assert parse_qs(urlsplit(asked).query) == {"service": ["s & t"], "scope": ["repository:tool:pull"]}


def test_threads_that_are_refused_at_once_ask_for_one_token(new_client, fault_server, reply) -> None:
    guarded(fault_server, reply, bearer(fault_server), "Bearer abc")
    fault_server.on("/token", reply(200, b'{"token": "abc"}', pause=0.01))
    client = new_client()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: fetch(client, fault_server), range(4))) == [DATA] * 4
    assert len([path for path in fault_server.paths() if path.startswith("/token")]) == 1


def test_a_token_is_fetched_with_the_users_password(new_client, fault_server, reply, tmp_path) -> None:
    guarded(fault_server, reply, bearer(fault_server), "Bearer abc")
    fault_server.on("/token", reply(200, b'{"access_token": "abc", "expires_in": 300}'))
    assert fetch(new_client(login(tmp_path, fault_server.address, "ada", "lovelace")), fault_server) == DATA
    (asked,) = [seen for seen in fault_server.seen if seen.path.startswith("/token")]
    assert asked.headers["authorization"] == ADA
    assert parse_qs(urlsplit(asked.path).query)["account"] == ["ada"]


def test_a_token_is_fetched_with_an_identity_token(new_client, fault_server, reply, tmp_path) -> None:
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {fault_server.address: {"identitytoken": "id"}}}))
    guarded(fault_server, reply, bearer(fault_server), "Bearer abc")
    fault_server.on("/token", reply(200, b'{"access_token": "abc"}'))
    assert fetch(new_client(file), fault_server) == DATA
    (asked,) = [seen for seen in fault_server.seen if seen.path.startswith("/token")]
    assert asked.method == "POST"
    assert parse_qs(asked.body.decode())["refresh_token"] == ["id"]
    assert "authorization" not in asked.headers


def test_a_token_that_has_run_out_is_renewed(new_client, fault_server, reply) -> None:
    guarded(fault_server, reply, bearer(fault_server), "Bearer one")
    fault_server.on("/token", [reply(200, b'{"token": "one"}'), reply(200, b'{"token": "two"}')])
    client = new_client()
    assert fetch(client, fault_server) == DATA
    guarded(fault_server, reply, bearer(fault_server), "Bearer two")
    assert fetch(client, fault_server) == DATA
    assert len([path for path in fault_server.paths() if path.startswith("/token")]) == 2


def test_a_token_that_says_it_is_short_lived_is_not_used_again(new_client, fault_server, reply) -> None:
    guarded(fault_server, reply, bearer(fault_server), "Bearer abc")
    fault_server.on("/token", reply(200, b'{"token": "abc", "expires_in": -1}'))
    client = new_client()
    assert fetch(client, fault_server) == DATA
    assert fetch(client, fault_server) == DATA
    assert len([path for path in fault_server.paths() if path.startswith("/token")]) == 2


def test_a_busy_token_service_is_asked_again(new_client, fault_server, reply) -> None:
    guarded(fault_server, reply, bearer(fault_server), "Bearer abc")
    fault_server.on("/token", [reply(503), reply(200, b'{"token": "abc"}')])
    assert fetch(new_client(), fault_server) == DATA


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (401, b"", "registry-unauthorized"),
        (403, b"", "registry-unauthorized"),
        (404, b"", "registry-failed"),
        (200, b"{}", "registry-failed"),
        (200, b"[]", "registry-failed"),
        (200, b"not json", "registry-failed"),
        (200, b'{"token": 5}', "registry-failed"),
        (200, b'{"token": "a\\r\\nX-Evil: 1"}', "registry-failed"),
        (200, b" " * (2 << 20), "answer-too-long"),
    ],
)
def test_a_token_service_that_misbehaves(new_client, fault_server, reply, status, body, code) -> None:
    guarded(fault_server, reply, bearer(fault_server), "Bearer abc")
    fault_server.on("/token", reply(status, body))
    with pytest.raises(TransferError) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == code


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "http://elsewhere.example/token", "//x", "ftp://x/y"])
def test_a_token_is_fetched_only_from_where_passwords_may_go(
    new_client, fault_server, reply, realm, monkeypatch
) -> None:
    guarded(fault_server, reply, f'Bearer realm="{realm}"', "Bearer abc")
    client = new_client()
    if realm.startswith("http:"):  # as if the registry itself had been reached by TLS
        monkeypatch.setattr(RegistrySettings, "is_plain", lambda self, registry: False)
        monkeypatch.setattr(client._transport, "origin", lambda registry: f"http://{registry}")
    with pytest.raises(TransferError) as caught:
        fetch(client, fault_server)
    assert caught.value.code == "registry-failed"


# Redirects


def test_a_password_does_not_follow_a_redirect_to_another_host(
    new_client, fault_server, other_server, reply, tmp_path
) -> None:
    def answer(seen: Any) -> Any:
        if seen.headers.get("authorization") != ADA:
            return reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        return reply(307, headers={"Location": f"{other_server.url}/storage?signature=1"})

    fault_server.on(BLOB_PATH, answer)
    other_server.on("/storage", reply(200, DATA))
    client = new_client(login(tmp_path, fault_server.address, "ada", "lovelace"))
    assert fetch(client, fault_server) == DATA
    (seen,) = other_server.seen
    assert "authorization" not in seen.headers


def test_another_host_that_asks_for_a_password_gets_none(
    new_client, fault_server, other_server, reply, tmp_path
) -> None:
    fault_server.on(BLOB_PATH, reply(307, headers={"Location": f"http://localhost:{other_server.address[10:]}/s"}))
    other_server.on("/s", reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
    client = new_client(login(tmp_path, fault_server.address, "ada", "lovelace"))
    with pytest.raises(TransferError) as caught:
        fetch(client, fault_server)
    assert caught.value.code == "registry-failed"
    assert all("authorization" not in seen.headers for seen in other_server.seen)


def test_a_redirect_on_the_same_host_keeps_the_login(new_client, fault_server, reply, tmp_path) -> None:
    fault_server.on(BLOB_PATH, reply(302, headers={"Location": "/moved"}))

    def moved(seen: Any) -> Any:
        if seen.headers.get("authorization") == ADA:
            return reply(200, DATA)
        return reply(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    fault_server.on("/moved", moved)
    client = new_client(login(tmp_path, fault_server.address, "ada", "lovelace"))
    assert fetch(client, fault_server) == DATA


def test_a_range_survives_a_redirect(new_client, fault_server, other_server, reply) -> None:
    fault_server.on(BLOB_PATH, reply(307, headers={"Location": f"{other_server.url}/s"}))
    told = {"Content-Range": f"bytes 6000-{len(DATA) - 1}/{len(DATA)}"}
    other_server.on("/s", [reply(200, DATA, cut=6000), reply(206, DATA[6000:], told)])
    assert fetch(new_client(), fault_server) == DATA
    assert [seen.headers.get("range") for seen in other_server.seen] == [None, "bytes=6000-"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://x/", "http://", "/again"])
def test_a_redirect_to_nowhere_is_refused(new_client, fault_server, reply, location) -> None:
    fault_server.on(BLOB_PATH, reply(302, headers={"Location": location}))
    fault_server.on("/again", reply(302, headers={"Location": "/again"}))
    with pytest.raises(TransferError) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "registry-failed"
    assert len(fault_server.seen) < 10


# Proxies


def test_a_proxy_is_not_asked_for_this_machine(new_client, fault_server, reply, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fault_server.on(BLOB_PATH, reply(200, DATA))
    assert fetch(new_client(), fault_server) == DATA


def test_a_proxy_is_asked_for_others(new_client, fault_server, reply, monkeypatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, fault_server.url)
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    fault_server.on(f"http://registry.example{BLOB_PATH}", reply(200, DATA))
    client = new_client(settings=RegistrySettings(frozenset({"registry.example"})))
    parts: list[bytes] = []
    client.blob(Reference.parse("registry.example/tool:1"), BLOB, parts.append)
    assert hashlib.sha256(b"".join(parts)).hexdigest() == BLOB.digest[7:]


def test_a_proxy_that_cannot_be_used_is_named(new_client, monkeypatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://x")
    monkeypatch.setenv("all_proxy", "nonsense://x")
    with pytest.raises(TransferError) as caught:
        new_client().resolve(Reference.parse("registry.invalid/tool:1"))
    assert caught.value.code == "proxy-invalid"


# Plain HTTP


@pytest.mark.parametrize(
    "registry", ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000", "a.localhost"]
)
def test_this_machine_is_spoken_to_in_plain_http(registry: str) -> None:
    assert RegistrySettings().is_plain(registry)


@pytest.mark.parametrize(
    "registry", ["docker.io", "example.org:5000", "127.0.0.1.example.org", "localhost.example.org"]
)
def test_others_are_not(registry: str) -> None:
    assert not RegistrySettings().is_plain(registry)


def test_unless_the_user_says_so() -> None:
    settings = RegistrySettings.from_environment({"MBUILD_INSECURE_REGISTRIES": "a.example, b.example:5000,"})
    assert settings.is_plain("a.example:1")
    assert settings.is_plain("b.example:5000")
    assert not settings.is_plain("b.example")
    assert not is_loopback("b.example")
