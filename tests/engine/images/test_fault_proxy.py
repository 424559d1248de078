"""Pulls from and pushes into a real registry over a network that fails."""

from __future__ import annotations

import base64
import io
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from fault_proxy import Asked, Fault, FaultProxy, first

from engine.events import Event, TransferProgress
from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest
from engine.images.policy import TransferPolicy
from engine.images.push import Pushed, push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.parallel import in_parallel
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError

pytestmark = pytest.mark.registry

LAYERS = [random.Random(seed).randbytes(3 << 20) for seed in range(3)]
QUICK = TransferPolicy(attempts=4, backoff=0.01, longest_wait=3, connect_timeout=3, read_timeout=1, progress=1 << 18)


@dataclass
class Image:
    blobs: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes, kind: str) -> Descriptor:
        self.blobs[digest_of(data)] = data
        return Descriptor(kind, digest_of(data), len(data))

    def open(self, digest: str) -> BinaryIO:
        return io.BytesIO(self.blobs[digest])


@pytest.fixture(scope="module")
def image() -> Image:
    return Image()


@pytest.fixture(scope="module")
def manifest(image: Image) -> Manifest:
    config = image.add(b'{"architecture": "amd64", "os": "linux"}', mediatype.OCI_CONFIG)
    made = Manifest(config, tuple(image.add(layer, mediatype.OCI_LAYER) for layer in LAYERS))
    image.add(made.to_json(), made.media_type)
    return made


@pytest.fixture
def proxy(registry: Any) -> Iterator[FaultProxy]:
    with FaultProxy(registry.address) as running:
        yield running


@pytest.fixture
def other(registry: Any) -> Iterator[FaultProxy]:
    """Another host, as far as HTTP is concerned."""
    with FaultProxy(registry.address) as running:
        yield running


@pytest.fixture
def stocked(registry: Any, image: Image, manifest: Manifest) -> str:
    """A repository with the image, brought there without trouble."""
    send(registry.address, image, manifest, "faults/stocked")
    return "faults/stocked"


def new_client(**options: Any) -> RegistryClient:
    return RegistryClient(**{"credentials": CredentialStore(()), "policy": QUICK, **options})


def send(address: str, image: Image, manifest: Manifest, repository: str, **options: Any) -> Pushed:
    with new_client(**options) as client:
        return push_image(client, Reference.parse(f"{address}/{repository}:1"), manifest.to_json(), image.open)


def fetch(address: str, repository: str, manifest: Manifest, **options: Any) -> list[bytes]:
    """All layers at once, as a build pulls them."""
    reference = Reference.parse(f"{address}/{repository}:1")

    def one(layer: Descriptor, client: RegistryClient, stop: threading.Event) -> bytes:
        parts: list[bytes] = []
        client.blob(reference, layer, parts.append)
        return b"".join(parts)

    with new_client(**options) as client:
        found = client.resolve(reference)
        assert client.manifest(reference, found.digest) == manifest.to_json()
        return in_parallel([partial(one, layer, client) for layer in manifest.layers], 4)


# Pulls


def test_layers_that_are_cut_go_on_where_they_were_cut(proxy, stocked, manifest) -> None:
    proxy.trouble = first(6, Fault(cut=1 << 20), Asked.is_blob)
    events: list[Event] = []
    assert fetch(proxy.address, stocked, manifest, observer=events.append) == LAYERS
    resumed = [asked.headers["range"] for asked in proxy.seen if "range" in asked.headers]
    assert len(resumed) == 6
    assert all(value in ("bytes=1048576-", "bytes=2097152-") for value in resumed)
    assert ("GET", 206) in proxy.statuses
    told = [event for event in events if isinstance(event, TransferProgress)]
    assert all(0 <= event.done <= event.total == 3 << 20 for event in told)
    assert {event.id for event in told if event.finished} == {layer.digest for layer in manifest.layers}


def test_a_layer_that_stops_coming_is_asked_for_again(proxy, stocked, manifest) -> None:
    proxy.trouble = first(2, Fault(delay=1.5), Asked.is_blob)
    assert fetch(proxy.address, stocked, manifest) == LAYERS
    assert len([asked for asked in proxy.seen if asked.is_blob()]) == 5


def test_a_slow_network_is_not_a_broken_one(proxy, stocked, manifest) -> None:
    proxy.trouble = lambda asked: Fault(drip=0.03) if asked.is_blob() else None
    assert fetch(proxy.address, stocked, manifest) == LAYERS
    assert len([asked for asked in proxy.seen if asked.is_blob()]) == 3


def test_a_layer_with_a_wrong_byte_is_refused(proxy, stocked, manifest) -> None:
    proxy.trouble = lambda asked: Fault(corrupt=2_000_000) if asked.is_blob() else None
    with pytest.raises(UntrustedDataError) as caught:
        fetch(proxy.address, stocked, manifest)
    assert caught.value.code == "digest-mismatch"


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_registry_that_is_busy_for_a_while_is_waited_for(proxy, stocked, manifest, status: int) -> None:
    proxy.trouble = first(3, Fault(status=status), lambda asked: asked.method in ("GET", "HEAD"))
    assert fetch(proxy.address, stocked, manifest) == LAYERS


def test_the_time_that_a_registry_asks_for_is_waited(proxy, stocked, manifest) -> None:
    proxy.trouble = first(1, Fault(status=429, retry_after="1"), Asked.is_blob)
    began = time.monotonic()
    assert fetch(proxy.address, stocked, manifest) == LAYERS
    assert time.monotonic() - began >= 1


def test_a_date_that_a_registry_names_is_waited_for(proxy, stocked, manifest) -> None:
    later = formatdate(time.time() + 2, usegmt=True)
    proxy.trouble = first(1, Fault(status=503, retry_after=later), Asked.is_blob)
    assert fetch(proxy.address, stocked, manifest) == LAYERS
    assert time.time() >= parsedate_to_datetime(later).timestamp()


def test_layers_on_another_host_come_without_the_login(start_registry, image, manifest, tmp_path: Path) -> None:
    private = start_registry(login=True)
    packed = base64.b64encode(f"{private.username}:{private.password}".encode()).decode()
    with FaultProxy(private.address) as front, FaultProxy(private.address) as storage:
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"auths": {front.address: {"auth": packed}}}))
        store = CredentialStore((file,))
        send(front.address, image, manifest, "faults/private", credentials=store)
        front.trouble = lambda asked: Fault(redirect=storage.url) if asked.is_blob() else None
        # The other host serves the layers to those alone who have the login: nobody comes with it.
        with pytest.raises(TransferError) as caught:
            fetch(front.address, "faults/private", manifest, credentials=store)
        assert caught.value.code == "registry-failed"
        assert storage.seen
        assert all("authorization" not in asked.headers for asked in storage.seen)
        assert any(asked.headers.get("authorization") == f"Basic {packed}" for asked in front.seen)


def test_layers_on_another_host_are_resumed_there(proxy, other, stocked, manifest) -> None:
    proxy.trouble = lambda asked: Fault(redirect=other.url) if asked.is_blob() else None
    other.trouble = first(4, Fault(cut=1 << 20), Asked.is_blob)
    assert fetch(proxy.address, stocked, manifest) == LAYERS
    assert len([asked for asked in other.seen if "range" in asked.headers]) == 4


def test_a_pull_that_is_cancelled_ends_at_once(proxy, stocked, manifest) -> None:
    cancelled = threading.Event()

    def trouble(asked: Asked) -> Fault | None:
        if asked.is_blob():
            cancelled.set()
        return Fault(drip=0.2) if asked.is_blob() else None

    proxy.trouble = trouble
    began = time.monotonic()
    with pytest.raises(InterruptedBuildError):
        fetch(proxy.address, stocked, manifest, cancelled=cancelled)
    assert time.monotonic() - began < 5


# Pushes


def test_an_upload_that_is_cut_is_taken_up_again(proxy, registry, image, manifest) -> None:
    """This registry forgets an upload that was cut within a request, so it begins anew."""
    proxy.trouble = first(3, Fault(cut_request=1 << 20), lambda asked: asked.method == "PATCH")
    assert send(proxy.address, image, manifest, "faults/cut").sent == 4
    assert [asked for asked in proxy.seen if asked.method == "GET" and "/blobs/uploads/" in asked.path]
    assert fetch(registry.address, "faults/cut", manifest) == LAYERS


def test_an_upload_in_pieces_goes_on_where_it_was_cut(proxy, registry, image, manifest, monkeypatch) -> None:
    """Something on the way takes no long requests; in between it fails, too."""
    monkeypatch.setattr("engine.images.upload._PIECE", 1 << 20)
    busy = first(2, Fault(status=503), lambda asked: asked.headers.get("content-range", "").startswith("2097152-"))

    def trouble(asked: Asked) -> Fault | None:
        if int(asked.headers.get("content-length", 0)) > 1 << 20:
            return Fault(status=413)
        return busy(asked)

    proxy.trouble = trouble
    assert send(proxy.address, image, manifest, "faults/pieces").sent == 4
    starts = [
        asked.headers["content-range"].partition("-")[0]
        for asked in proxy.asked("PATCH")
        if "content-range" in asked.headers
    ]
    assert sorted(starts) == sorted(["0", "1048576", "2097152"] * 3 + ["2097152"] * 2)
    assert fetch(registry.address, "faults/pieces", manifest) == LAYERS


def test_an_answer_that_is_lost_does_not_lose_the_push(proxy, registry, image, manifest) -> None:
    proxy.trouble = first(4, Fault(delay=1.5), lambda asked: asked.method in ("POST", "HEAD"))
    assert send(proxy.address, image, manifest, "faults/lost").sent == 4
    assert fetch(registry.address, "faults/lost", manifest) == LAYERS


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_registry_is_pushed_to_in_the_end(proxy, image, manifest, method: str, status: int) -> None:
    proxy.trouble = first(2, Fault(status=status, retry_after="0"), lambda asked: asked.method == method)
    assert send(proxy.address, image, manifest, f"faults/busy-{method.lower()}-{status}").digest


def test_manifests_come_after_all_blobs(proxy, image, manifest) -> None:
    send(proxy.address, image, manifest, "faults/order")
    put = proxy.asked("PUT", "/manifests/")
    assert len(put) == 1
    assert proxy.seen[-1] is put[0]
    assert send(proxy.address, image, manifest, "faults/order").there == 4


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_a_transfer_is_whole_or_fails_in_order(proxy, registry, image, manifest, seed: int) -> None:
    chance = random.Random(seed)
    kinds = (
        Fault(cut=1 << 19),
        Fault(cut=0),
        Fault(cut_request=1 << 19),
        Fault(status=429, retry_after="0"),
        Fault(status=502),
        Fault(delay=1.2),
    )
    lock = threading.Lock()

    def trouble(asked: Asked) -> Fault | None:
        with lock:
            return chance.choice(kinds) if chance.random() < 0.25 else None

    proxy.trouble = trouble
    name = f"faults/chance-{seed}"
    refused = attempted(lambda: send(proxy.address, image, manifest, name))
    if refused:
        assert refused in ("registry-failed", "registry-unreachable", "push-refused")
        with new_client() as client, pytest.raises(TransferError) as caught:
            client.resolve(Reference.parse(f"{registry.address}/{name}:1"))
        assert caught.value.code == "image-not-found"
        send(registry.address, image, manifest, name)
    failed = attempted(lambda: fetch(proxy.address, name, manifest))
    assert failed in ("", "registry-failed", "registry-unreachable", "blob-truncated")
    proxy.trouble = lambda asked: None
    assert fetch(proxy.address, name, manifest) == LAYERS


def attempted(transfer: Callable[[], object]) -> str:
    """The code of the error that it ends with; empty when it does well."""
    try:
        transfer()
    except TransferError as error:
        return error.code
    return ""
