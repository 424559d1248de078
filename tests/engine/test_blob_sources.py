"""Blobs that several places may have."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from cache.results import Layer
from cache.store import Store
from engine.blobsources import BlobSources, Offer, Sink
from engine.events import ignore
from engine.images.digest import digest_of
from engine.images.reference import Reference
from engine.origins import origins
from machinefile.errors import InterruptedBuildError, StoreError, TransferError, UntrustedDataError

DATA = b"a layer" * 1000
LAYER = Layer(digest_of(DATA), digest_of(DATA), len(DATA), "application/vnd.oci.image.layer.v1.tar")


@dataclass(frozen=True)
class Provider:
    send: Callable[[Sink], object]
    reference: Reference | None = None

    def offers(self, layer: Layer) -> Sequence[Offer]:
        return [Offer(lambda sink: (self.send(sink), None)[1], self.reference)]


def whole(sink: Sink) -> None:
    sink(DATA)


def cut(sink: Sink) -> None:
    sink(DATA[:100])
    raise TransferError("cut", code="registry-failed")


def wrong(sink: Sink) -> None:
    sink(bytes(100))
    raise UntrustedDataError("wrong", code="digest-mismatch")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def sources(store: Store, *sends: Callable[[Sink], object]) -> BlobSources:
    found = BlobSources(store, ignore)
    for send in sends:
        found.add(Provider(send))
    return found


@pytest.mark.parametrize("first", [cut, wrong])
def test_what_one_place_fails_of_the_next_gives(store: Store, first: Callable[[Sink], object]) -> None:
    sources(store, first, whole).pull(LAYER)
    assert store.blobs.verify(LAYER.digest)


def test_a_place_is_not_asked_when_one_before_it_had_the_blob(store: Store) -> None:
    asked: list[str] = []
    sources(store, whole, lambda sink: asked.append("second")).pull(LAYER)
    assert asked == []


def test_the_last_failure_is_told(store: Store) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        sources(store, cut, wrong).pull(LAYER)
    assert caught.value.code == "digest-mismatch"
    assert not store.blobs.has(LAYER.digest)
    assert list(store.temporary.glob("blob-*")) == []


def test_a_blob_that_nobody_has_is_missing(store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        sources(store).pull(LAYER)
    assert caught.value.code == "blob-missing"


def test_who_reads_along_is_not_given_another_place_s_bytes(store: Store) -> None:
    blobs = sources(store, cut, whole)

    def read() -> None:
        with blobs.pulling([LAYER]), blobs.open(LAYER) as reader:
            while reader.read(1000):
                pass

    with pytest.raises(TransferError, match="cut"):
        read()


def test_a_pull_that_is_stopped_asks_no_other_place(store: Store) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(InterruptedBuildError):
        sources(store, whole, whole).pull(LAYER, stop)
    assert not store.blobs.has(LAYER.digest)


def test_the_repositories_of_a_layer_are_remembered(store: Store) -> None:
    blobs = BlobSources(store, ignore)
    blobs.add(Provider(whole, Reference.parse("registry.example/team/cache:1")))
    blobs.remember([LAYER])
    assert origins(store, "registry.example")(LAYER.digest) == ["team/cache"]
