"""Registries behind TLS that only a proxy reaches."""

from __future__ import annotations

import base64
import io
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_server import LocalServer, QuietHandler
from pki import Pair, authority, signed

from engine.images.credentials import CredentialStore
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.push import push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.registry_config import RegistryEntry
from machinefile.errors import TransferError

pytestmark = pytest.mark.registry

NAME = "registry.example:5000"
POLICY = TransferPolicy(attempts=2, connect_attempts=1, backoff=0.01, connect_timeout=5, read_timeout=5)


class Tunnel(LocalServer):
    """A proxy that takes CONNECT alone, and leads wherever it likes."""

    def __init__(self, target: str, user: str = "") -> None:
        self.asked: list[tuple[str, str]] = []
        """Where to, and with which login."""
        tunnel = self
        host, _, port = target.partition(":")
        wanted = "Basic " + base64.b64encode(user.encode()).decode() if user else ""

        class Handler(QuietHandler):
            def do_CONNECT(self) -> None:  # noqa: N802
                login = self.headers.get("Proxy-Authorization", "")
                tunnel.asked.append((self.path, login))
                assert "Authorization" not in self.headers
                self.close_connection = True
                if wanted and login != wanted:
                    self.send_error(407)
                    return
                with socket.create_connection((host, int(port)), 10) as upstream:
                    self.send_response_only(200)
                    self.end_headers()
                    _relay(self.connection, upstream)

        super().__init__(Handler)
        self.start()


def _relay(one: socket.socket, other: socket.socket) -> None:
    while True:
        for ready in select.select([one, other], [], [], 30)[0] or [None]:
            data = ready.recv(1 << 16) if ready else b""
            if not data:
                return
            (other if ready is one else one).sendall(data)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Pair, Pair]:
    ours = authority(tmp_path)
    return ours, signed(tmp_path, ours, "registry", "registry.example")


@pytest.fixture
def start_tunnel(start_registry: Any, pair: tuple[Pair, Pair]) -> Iterator[Callable[..., Tunnel]]:
    """To a registry behind TLS whose certificate is for registry.example, a name that nobody else knows."""
    made: list[Tunnel] = []
    registry = start_registry(certificate=(pair[1].key, pair[1].certificate))

    def start(user: str = "") -> Tunnel:
        made.append(Tunnel(registry.address, user))
        return made[-1]

    yield start
    for tunnel in made:
        tunnel.stop()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def client(pair: tuple[Pair, Pair]) -> RegistryClient:
    entry = RegistryEntry(NAME, ca=(pair[0].certificate,))
    settings = RegistrySettings(entries=(entry,))
    return RegistryClient(credentials=CredentialStore(()), settings=settings, policy=POLICY)


def test_an_image_goes_through_a_proxy_and_back(start_tunnel, pair, image, monkeypatch) -> None:
    tunnel = start_tunnel(user="eve:dropper")
    monkeypatch.setenv("HTTPS_PROXY", f"http://eve:dropper@{tunnel.address}")
    reference = Reference.parse(f"{NAME}/tool:1")
    versions = set()
    with client(pair) as one:
        done = push_image(one, reference, image.data, lambda digest: io.BytesIO(image.blobs[digest]))
        assert done.sent == 2
        got = bytearray()
        one.blob(reference, image.manifest.layers[0], got.extend)
        assert got == image.layer
        with one.session.exchange(reference, "GET", one.session.url(reference, "manifests/1")) as response:
            versions.add(response.http_version)
    assert versions == {"HTTP/2"}
    assert {where for where, _ in tunnel.asked} == {NAME}


def test_a_proxy_that_wants_a_login_is_named(start_tunnel, pair, monkeypatch) -> None:
    tunnel = start_tunnel(user="eve:dropper")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{tunnel.address}")
    with client(pair) as one, pytest.raises(TransferError, match="407") as caught:
        one.resolve(Reference.parse(f"{NAME}/tool:1"))
    assert caught.value.code == "registry-unreachable"
    assert "proxy" in caught.value.hint


def test_no_proxy_is_obeyed(start_tunnel, pair, monkeypatch) -> None:
    tunnel = start_tunnel()
    monkeypatch.setenv("HTTPS_PROXY", f"http://{tunnel.address}")
    monkeypatch.setenv("NO_PROXY", "other.example,registry.example")
    with client(pair) as one, pytest.raises(TransferError) as caught:
        one.resolve(Reference.parse(f"{NAME}/tool:1"))
    assert caught.value.code == "registry-unreachable"
    assert tunnel.asked == []
