"""Layers of a base brought into the store, several at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.store import Store
from engine.bases import Bases
from engine.events import ignore
from engine.images.descriptor import Descriptor
from engine.images.download import Sink
from engine.images.fake import FakeImageSource
from engine.images.image import ResolvedImage
from engine.origins import origins
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError
from machinefile.platform import native
from machinefile.steps import BaseReference

LAYERS = [bytes([number]) * 1024 for number in range(6)]
NAME = "registry.example/team/base:1"


class Source(FakeImageSource):
    """A fake whose blobs come when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str], None] = lambda digest: None

    def resolve(self, base: BaseReference) -> ResolvedImage:
        self.before(base.reference)
        return super().resolve(base)

    def fetch_blob(self, image: ResolvedImage, descriptor: Descriptor, sink: Sink) -> None:
        self.before(descriptor.digest)
        super().fetch_blob(image, descriptor, sink)


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def reference(name: str = NAME) -> BaseReference:
    return BaseReference(name, native())


def test_four_layers_come_at_a_time(store: Store, source: Source) -> None:
    source.add(NAME, LAYERS[:4])
    together = threading.Barrier(4, timeout=10)
    source.before = lambda digest: together.wait() if digest.startswith("sha256:") else None
    bases = Bases(store, source, ignore)
    base = bases.get(reference())
    bases.pull_all(base)
    assert base.is_stored(store)
    bases.pull_all(base)
    assert len(source.fetched) == 4


def test_a_layer_that_is_there_twice_comes_once(store: Store, source: Source) -> None:
    source.add(NAME, [LAYERS[0], LAYERS[1], LAYERS[0]])
    bases = Bases(store, source, ignore)
    bases.pull_all(bases.get(reference()))
    assert sorted(source.fetched) == sorted(set(source.fetched))


def test_a_layer_that_fails_stops_the_others_and_leaves_nothing_half_done(store: Store, source: Source) -> None:
    source.add(NAME, LAYERS)
    bases = Bases(store, source, ignore)
    base = bases.get(reference())
    wrong = base.layers[1].digest
    failed = threading.Event()

    def before(digest: str) -> None:
        if digest == wrong:
            failed.set()
            raise UntrustedDataError("wrong", code="digest-mismatch")
        failed.wait(5)
        time.sleep(0.3)

    source.before = before
    with pytest.raises(UntrustedDataError):
        bases.pull_all(base)
    assert not store.blobs.has(wrong)
    assert len(source.fetched) < len(LAYERS) - 1, "those that had not begun do not begin"
    assert list(store.temporary.glob("blob-*")) == []


def test_a_cancelled_build_pulls_no_further(store: Store, source: Source) -> None:
    source.add(NAME, LAYERS)
    cancelled = threading.Event()
    bases = Bases(store, source, ignore, cancelled)
    base = bases.get(reference())
    source.before = lambda digest: cancelled.set()
    with pytest.raises(InterruptedBuildError):
        bases.pull_all(base)


def test_where_a_layer_came_from_is_remembered(store: Store, source: Source) -> None:
    source.add(NAME, LAYERS[:2])
    source.add("oci-layout:/somewhere", LAYERS[2:3])
    bases = Bases(store, source, ignore)
    bases.pull_all(bases.get(reference()))
    other = bases.get(reference("oci-layout:/somewhere"))
    bases.pull(other.layers[0])
    found = origins(store, "registry.example")
    assert found(bases.get(reference()).layers[0].digest) == ["team/base"]
    assert found(other.layers[0].digest) == []
    assert origins(store, "other.example")(bases.get(reference()).layers[0].digest) == []


def test_bases_are_looked_up_together(store: Store, source: Source) -> None:
    names = [f"registry.example/base:{number}" for number in range(3)]
    for name in names:
        source.add(name, LAYERS[:1])
    together = threading.Barrier(3, timeout=10)
    source.before = lambda name: together.wait() and None
    bases = Bases(store, source, ignore)
    bases.prefetch([reference(name) for name in (*names, names[0])])
    for name in names:
        bases.get(reference(name))
    assert sorted(source.asked) == names


def test_a_base_that_is_missing_is_told_when_it_is_asked_for(store: Store, source: Source) -> None:
    source.add(NAME, LAYERS[:1])
    bases = Bases(store, source, ignore)
    bases.prefetch([reference(), reference("registry.example/absent:1")])
    assert bases.get(reference()).layers
    with pytest.raises(TransferError) as caught:
        bases.get(reference("registry.example/absent:1"))
    assert caught.value.code == "image-not-found"
    assert source.asked.count("registry.example/absent:1") == 1
