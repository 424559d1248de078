"""HTTP/2 where a registry offers it: many exchanges at once, none of which may wait for another, or harm the next."""

from __future__ import annotations

import io
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from http2_server import Answer, Asked, Http2Server

from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.push import push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.registry_config import RegistryEntry
from engine.images.transport import BULK, Transport
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError

BIG = random.Random(2).randbytes(20 << 20)
DATA = bytes(range(256)) * 400
BLOB = Descriptor(mediatype.OCI_LAYER, digest_of(DATA), len(DATA))
POLICY = TransferPolicy(attempts=4, backoff=0.01, connect_timeout=3, read_timeout=5, progress=1000)

Heard = list[tuple[str, str, str]]
"""Method, path and version of exchanges."""


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Every exchange that takes place."""
    found: Heard = []
    exchange = Transport.exchange

    @contextmanager
    def listening(self: Transport, method: str, url: str, **options: Any) -> Iterator[Any]:
        with exchange(self, method, url, **options) as response:
            found.append((method, response.url.path, response.http_version))
            yield response

    monkeypatch.setattr(Transport, "exchange", listening)
    return found


@pytest.fixture
def connect(certificate: tuple[Path, Path]) -> Iterator[Callable[..., RegistryClient]]:
    made: list[RegistryClient] = []

    def new(address: str, **options: Any) -> RegistryClient:
        entry = RegistryEntry(address, plain_http=False, ca=(certificate[1],))
        values: dict[str, Any] = {"settings": RegistrySettings(entries=(entry,)), "policy": POLICY, **options}
        made.append(RegistryClient(credentials=CredentialStore(()), **values))
        return made[-1]

    yield new
    for client in made:
        client.__exit__(None, None, None)


class Image:
    """Sixty small layers, and a large one."""

    def __init__(self, number: int) -> None:
        small = [f"layer {number}.{one}".encode() * 50 for one in range(60)]
        self.blobs = {digest_of(data): data for data in (*small, number.to_bytes(4, "big") + BIG, b"{}")}
        layers = [Descriptor(mediatype.OCI_LAYER, name, len(data)) for name, data in self.blobs.items()]
        self.manifest = Manifest(layers[-1], tuple(layers[:-1]))

    def open(self, digest: str) -> BinaryIO:
        return io.BytesIO(self.blobs[digest])

    def push(self, client: RegistryClient, address: str, number: int, cancelled: threading.Event | None = None) -> None:
        reference = Reference.parse(f"{address}/busy/{number}:1")
        push_image(client, reference, self.manifest.to_json(), self.open, cancelled=cancelled)

    def pull(self, client: RegistryClient, address: str, number: int) -> None:
        reference = Reference.parse(f"{address}/busy/{number}:1")
        assert client.manifest(reference, client.resolve(reference).digest) == self.manifest.to_json()
        for layer in self.manifest.layers:
            parts: list[bytes] = []
            client.blob(reference, layer, parts.append)
            assert b"".join(parts) == self.blobs[layer.digest]


def together(tasks: list[Callable[[], object]], seconds: float) -> list[BaseException | None]:
    """Carry them all out at once; how each of them ended. None may take longer."""
    ends: list[BaseException | None] = [None] * len(tasks)

    def carry_out(number: int) -> None:
        try:
            tasks[number]()
        except BaseException as error:
            ends[number] = error

    threads = [threading.Thread(target=carry_out, args=(number,), daemon=True) for number in range(len(tasks))]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "something hangs"
    return ends


# A real registry


@pytest.mark.registry
@pytest.mark.timeout(300)
def test_eight_threads_push_and_pull_at_once(start_registry, certificate, connect, heard) -> None:
    registry = start_registry(certificate=certificate)
    images = [Image(number) for number in range(8)]
    client = connect(registry.address)
    pushes = [lambda one=one, n=n: one.push(client, registry.address, n) for n, one in enumerate(images)]
    assert together(pushes, 120) == [None] * 8
    pulls = [lambda one=one, n=n: one.pull(client, registry.address, n) for n, one in enumerate(images)]
    assert together(pulls, 120) == [None] * 8
    versions = Counter(version for _, _, version in heard)
    large = {digest_of(number.to_bytes(4, "big") + BIG) for number in range(8)}
    # Large bodies alone go over HTTP/1.1: eight layers there, and eight back.
    slow = [(method, path) for method, path, version in heard if version != "HTTP/2"]
    assert versions["HTTP/1.1"] == 16
    assert {method for method, _ in slow} == {"PATCH", "GET"}
    assert {path.rpartition("/")[2] for method, path in slow if method == "GET"} == large
    assert versions["HTTP/2"] > 8 * 60 * 3


@pytest.mark.registry
@pytest.mark.timeout(300)
def test_what_is_cancelled_midway_ends_and_harms_nothing(start_registry, certificate, connect) -> None:
    registry = start_registry(certificate=certificate)
    images = [Image(number) for number in range(8)]
    for one in range(0, 8, 2):
        images[one].push(connect(registry.address), registry.address, one)
    cancelled = threading.Event()
    client = connect(registry.address, cancelled=cancelled)

    def move(number: int) -> Callable[[], object]:
        if number % 2:
            return lambda: images[number].push(client, registry.address, number, cancelled)
        return lambda: images[number].pull(client, registry.address, number)

    timer = threading.Timer(0.5, cancelled.set)
    timer.start()
    ends = together([move(number) for number in range(8)], 10)
    assert all(isinstance(end, InterruptedBuildError) for end in ends)
    images[1].push(connect(registry.address), registry.address, 1)


@pytest.mark.registry
def test_answers_that_nobody_reads_do_not_use_up_the_next_ones(start_registry, certificate, connect, heard) -> None:
    registry = start_registry(certificate=certificate)
    image = Image(0)
    client = connect(registry.address)
    image.push(client, registry.address, 0)
    digest = digest_of(bytes(4) + BIG)
    url = f"https://{registry.address}/v2/busy/0/blobs/{digest}"
    began = time.monotonic()
    for _ in range(4):
        with client.session.transport.exchange("GET", url) as response:
            assert next(response.iter_raw())
    with client.session.transport.exchange("GET", url) as response:
        assert digest_of(b"".join(response.iter_raw())) == digest
    assert time.monotonic() - began < POLICY.read_timeout
    assert {version for _, path, version in heard[-5:] if path.endswith(digest)} == {"HTTP/2"}


@pytest.mark.registry
def test_a_registry_in_plain_http_is_spoken_to_in_http_1(registry, heard) -> None:
    image = Image(0)
    with RegistryClient(credentials=CredentialStore(()), settings=RegistrySettings()) as client:
        image.push(client, registry.address, 0)
        image.pull(client, registry.address, 0)
    assert {version for _, _, version in heard} == {"HTTP/1.1"}


def test_a_server_without_http2_is_spoken_to_in_http_1(fault_server, reply, certificate, connect, heard) -> None:
    fault_server.secure(certificate)
    fault_server.on(f"/v2/tool/blobs/{BLOB.digest}", reply(200, DATA))
    assert fetch(connect(fault_server.address), fault_server.address) == DATA
    assert [version for _, _, version in heard] == ["HTTP/1.1"]


# What HTTP/2 alone can do wrong


@pytest.fixture
def serve(certificate: tuple[Path, Path]) -> Iterator[Callable[..., Http2Server]]:
    servers: list[Http2Server] = []

    def start(answer: Callable[[Asked], Answer]) -> Http2Server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[1], certificate[0])
        servers.append(Http2Server(context, answer).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


def fetch(client: RegistryClient, address: str, blob: Descriptor = BLOB) -> bytes:
    parts: list[bytes] = []
    client.blob(Reference.parse(f"{address}/tool:1"), blob, parts.append)
    return b"".join(parts)


def cut_at(length: int, **how: Any) -> Callable[[Asked], Answer]:
    """Answers with so many bytes, then ends as told; the rest comes when it is asked for."""

    def answer(asked: Asked) -> Answer:
        start = int(asked.headers.get("range", "bytes=0-")[6:-1])
        if not start:
            return Answer(200, DATA[:length], announced=len(DATA), **how)
        return Answer(206, DATA[start:], {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"})

    return answer


@pytest.mark.parametrize("how", [{}, {"reset": True}, {"leave": True}], ids=["short", "reset", "goodbye"])
def test_a_body_that_ends_too_early_is_resumed(serve, connect, heard, how: dict[str, bool]) -> None:
    server = serve(cut_at(50_000, **how))
    assert fetch(connect(server.address), server.address) == DATA
    # What came together with the bad news is lost with it.
    assert all(asked.headers.get("range", "bytes=0-") <= "bytes=50000-" for asked in server.seen)
    assert len(server.seen) == 2
    assert {version for _, _, version in heard} == {"HTTP/2"}


def test_a_body_that_is_always_short_fails_in_the_end(serve, connect) -> None:
    server = serve(lambda asked: Answer(200, DATA[:100], announced=len(DATA)))
    with pytest.raises(TransferError) as caught:
        fetch(connect(server.address), server.address)
    assert caught.value.code in ("registry-failed", "blob-truncated")


def test_a_body_that_goes_on_is_refused(serve, connect) -> None:
    server = serve(lambda asked: Answer(200, DATA + b"more", announced=len(DATA)))
    with pytest.raises((TransferError, UntrustedDataError)) as caught:
        fetch(connect(server.address), server.address)
    assert caught.value.code in ("registry-failed", "blob-too-long")


def test_a_connection_serves_one_exchange_after_another(serve, connect) -> None:
    server = serve(lambda asked: Answer(200, DATA))
    client = connect(server.address)
    for _ in range(5):
        assert fetch(client, server.address) == DATA
    assert {asked.connection for asked in server.seen} == {0}


def test_threads_at_once_have_a_connection_each(serve, connect) -> None:
    together_now = threading.Barrier(4, timeout=10)

    def answer(asked: Asked) -> Answer:
        together_now.wait()
        return Answer(200, DATA)

    server = serve(answer)
    client = connect(server.address)
    assert together([lambda: fetch(client, server.address)] * 4, 20) == [None] * 4
    assert {asked.connection for asked in server.seen} == {0, 1, 2, 3}


def test_an_answer_before_the_bodys_end_is_heard_or_asked_for_again(serve, connect, heard) -> None:
    """A refusal that comes while the body is on its way: it fits the first window, so all of it goes out."""
    server = serve(lambda asked: Answer(403 if asked.method == "PUT" else 404, early=asked.method == "PUT"))
    transport = connect(server.address).session.transport
    for _ in range(3):
        with transport.exchange("PUT", f"https://{server.address}/v2/x", content=bytes(1 << 15)) as response:
            assert response.status_code == 403
        with transport.exchange("GET", f"https://{server.address}/v2/x") as response:
            assert response.status_code == 404
    assert {version for _, _, version in heard} == {"HTTP/2"}


def test_what_is_longer_goes_over_http_1(fault_server, reply, certificate, connect, heard) -> None:
    """Where a refusal is heard while the body is on its way."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    context.set_alpn_protocols(["h2", "http/1.1"])  # and it would not understand a word of HTTP/2
    fault_server.wrap(context)
    large = Descriptor("", digest_of(bytes(BULK + 1)), BULK + 1)
    fault_server.on(f"/v2/tool/blobs/{large.digest}", reply(200, bytes(BULK + 1)))
    fault_server.on("/put", reply(413))
    client = connect(fault_server.address)
    assert fetch(client, fault_server.address, large) == bytes(BULK + 1)
    with client.session.transport.exchange(
        "POST",
        f"https://{fault_server.address}/put",
        content=lambda: iter([bytes(100)]),
        headers={"Content-Length": "100"},
    ) as response:
        assert response.status_code == 413
    assert {version for _, _, version in heard} == {"HTTP/1.1"}
