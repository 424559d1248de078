"""A base pulled and made ready at once: its layers are read while they come."""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.store import Store
from engine.bases import Base, Bases
from engine.events import ignore
from engine.images.descriptor import Descriptor
from engine.images.download import Sink
from engine.images.fake import FakeImageSource
from engine.images.image import ResolvedImage
from engine.layerstore import LayerStore
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError
from machinefile.platform import native
from machinefile.steps import BaseReference

NAME = "registry.example/team/base:1"
PIECE = 10_000


def tar(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path.replace("__", "/"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def twice() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for data in (b"old", b"newer"):
            info = tarfile.TarInfo("x")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Source(FakeImageSource):
    """Sends blobs in pieces; before each the test has its say, and may change it."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[str, int, bytes], bytes] = lambda digest, at, piece: piece

    def fetch_blob(self, image: ResolvedImage, descriptor: Descriptor, sink: Sink) -> None:
        whole: list[bytes] = []
        super().fetch_blob(image, descriptor, whole.append)
        data = b"".join(whole)
        for at in range(0, len(data), PIECE):
            sink(self.before(descriptor.digest, at, data[at : at + PIECE]))


class World:
    def __init__(self, folder: Path, cancelled: threading.Event) -> None:
        self.store = Store(folder)
        self.source = Source()
        self.bases = Bases(self.store, self.source, ignore, cancelled)
        self.layers = LayerStore(self.store, self.bases)

    def base(self, *layers: bytes) -> Base:
        self.source.add(NAME, layers)
        return self.bases.get(BaseReference(NAME, native()))

    def made(self) -> int:
        """How many disks there are, whole or half made."""
        return sum(1 for folder in ("disks", "tmp") for _ in (self.store.root / folder).rglob("*.squashfs"))


@pytest.fixture
def cancelled() -> threading.Event:
    return threading.Event()


@pytest.fixture
def world(tmp_path: Path, cancelled: threading.Event) -> Iterator[World]:
    world = World(tmp_path / "store", cancelled)
    with world.store:
        yield world


def test_layers_disks_and_what_is_in_them_are_there_afterwards(world: World) -> None:
    base = world.base(tar(etc__a=b"1" * 50_000), tar(etc__b=b"2", usr__c=b"3" * 30_000), twice())
    world.layers.bring(base)
    assert base.is_stored(world.store)
    assert world.made() == 3
    fetched = list(world.source.fetched)
    view = world.layers.view(base.layers)
    assert set(view.children("etc")) == {"a", "b"}
    found = view.lookup("x")
    assert found is not None
    assert found.entry.size == len(b"newer")
    assert all(disk.exists() for disk in world.layers.disks(base.layers))
    world.layers.bring(base)
    assert world.made() == 3
    assert world.source.fetched == fetched


def test_a_layer_is_read_before_all_of_it_is_there(world: World) -> None:
    base = world.base(tar(a=b"1" * 100_000, b=b"2"))
    layer = base.layers[0]
    seen = threading.Event()

    def before(digest: str, at: int, piece: bytes) -> bytes:
        assert at < 5 * PIECE or seen.wait(10), "nobody read what was there"
        return piece

    world.source.before = before
    with world.bases.pulling(base), world.bases.open(layer) as blob:
        begun = b""
        while len(begun) < 4 * PIECE:
            begun += blob.read(PIECE)
        assert not world.store.blobs.has(layer.digest)
        seen.set()
        while piece := blob.read(PIECE):
            begun += piece
        assert len(begun) == layer.size
    assert world.store.blobs.has(layer.digest, layer.size)


def test_what_comes_wrong_counts_for_nothing(world: World) -> None:
    base = world.base(tar(a=b"1" * 100_000))
    world.source.before = lambda digest, at, piece: piece if at < 3 * PIECE else bytes(len(piece))
    with pytest.raises(UntrustedDataError) as caught:
        world.layers.bring(base)
    assert caught.value.code == "digest-mismatch"
    assert not base.is_stored(world.store)
    assert world.made() == 0
    assert list((world.store.root / "layers").iterdir()) == []


def test_a_layer_that_is_no_tar_is_told_of_and_leaves_no_disk(world: World) -> None:
    base = world.base(tar(a=b"1"), b"no tar" * 10_000)
    with pytest.raises(UntrustedDataError) as caught:
        world.layers.bring(base)
    assert caught.value.code == "layer-header"
    assert world.made() == 1


def test_a_registry_that_fails_is_told_of_before_the_layer_that_it_broke(world: World) -> None:
    base = world.base(tar(a=b"1" * 100_000))

    def before(digest: str, at: int, piece: bytes) -> bytes:
        if at:
            raise TransferError("gone away", code="registry-failed")
        return bytes(range(250)) * (PIECE // 250)

    world.source.before = before
    with pytest.raises(TransferError) as caught:
        world.layers.bring(base)
    assert caught.value.code == "registry-failed"
    assert len(world.source.fetched) == 1
    assert world.made() == 0


def test_a_registry_that_fails_at_once_is_asked_once(world: World) -> None:
    base = world.base(tar(a=b"1"))

    def before(digest: str, at: int, piece: bytes) -> bytes:
        raise TransferError("no such blob", code="blob-not-found")

    world.source.before = before
    with pytest.raises(TransferError):
        world.layers.bring(base)
    assert len(world.source.fetched) == 1


def test_who_waits_for_a_silent_registry_can_be_interrupted(world: World, cancelled: threading.Event) -> None:
    base = world.base(tar(a=b"1" * 100_000))
    ended = threading.Event()

    def before(digest: str, at: int, piece: bytes) -> bytes:
        if at:
            cancelled.set()
            ended.wait(20)
        return piece

    world.source.before = before
    begun = time.monotonic()
    try:
        with pytest.raises(InterruptedBuildError):
            world.layers.bring(base)
        assert time.monotonic() - begun < 5
        assert world.made() == 0
    finally:
        ended.set()


def test_an_error_of_the_reader_stops_the_pull(world: World) -> None:
    base = world.base(tar(a=b"1" * 100_000))
    stopped = threading.Event()

    def before(digest: str, at: int, piece: bytes) -> bytes:
        if at > PIECE:
            assert stopped.wait(10)
        return piece

    world.source.before = before

    def fail() -> None:
        with world.bases.pulling(base):
            threading.Timer(0.2, stopped.set).start()
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert not base.is_stored(world.store)
