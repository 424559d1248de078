"""A RUN's layer and its disk, made in one pass."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layer_support import changes_of, file_item

from cache.files import file_digest
from cache.seals import Stamp
from cache.settling import Settling
from cache.store import Store
from engine.bases import Bases
from engine.images.fake import FakeImageSource
from engine.layers import disk as disk_module
from engine.layers.entry import Entry, EntryType
from engine.layers.tarwrite import Item
from engine.layerstore import LayerStore
from machinefile.errors import HostError, StepError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def layers_of(store: Store, **options: object) -> LayerStore:
    return LayerStore(store, Bases(store, FakeImageSource(), print), **options)  # type: ignore[arg-type]


def disks(store: Store) -> list[Path]:
    return sorted((store.root / "disks").glob("*")) if (store.root / "disks").is_dir() else []


ITEMS = [
    Item(Entry("d", EntryType.DIRECTORY, 0o750, 1, 2, opaque=True)),
    file_item("d/large", bytes(range(256)) * 8000, 0o4755),
    file_item("d/small", b"x"),
    file_item("empty", b""),
    Item(Entry("d/link", EntryType.HARDLINK, link="d/large")),
    Item(Entry("gone", EntryType.WHITEOUT)),
    Item(Entry("pipe", EntryType.FIFO, 0o600)),
    Item(Entry("to", EntryType.SYMLINK, 0o777, link="d/small")),
    Item(Entry("capable", EntryType.FILE, 0o755, xattrs=(("security.capability", b"\1\0\0\2\n"), ("user.a", b"b")))),
]


def test_the_disk_is_the_one_that_would_be_made_later(store: Store) -> None:
    layers = layers_of(store)
    base = layers.write([Item(Entry("", EntryType.DIRECTORY, 0o711)), Item(Entry("d", EntryType.DIRECTORY, 0o700))])
    assert base is not None
    layer = layers.add_changes(io.BytesIO(changes_of(*ITEMS)), (base,))
    assert layer is not None
    (made,) = disks(store)
    early = made.read_bytes()
    assert layers.disks((base, layer))[1] == made
    made.unlink()
    assert layers_of(store).disks((base, layer))[1] == made
    assert made.read_bytes() == early
    assert made.stat().st_mode & 0o777 == 0o644


def test_it_is_the_layer_that_is_made_without_a_disk(store: Store) -> None:
    layers = layers_of(store)
    plain = layers.add_changes(io.BytesIO(changes_of(*ITEMS)))
    assert disks(store) == []
    assert layers.add_changes(io.BytesIO(changes_of(*ITEMS)), ()) == plain
    assert len(disks(store)) == 1


def test_a_sound_disk_stays(store: Store) -> None:
    layers = layers_of(store)
    layers.add_changes(io.BytesIO(changes_of(*ITEMS)), ())
    before = [disk.stat().st_ino for disk in disks(store)]
    layers_of(store).add_changes(io.BytesIO(changes_of(*ITEMS)), ())
    assert [disk.stat().st_ino for disk in disks(store)] == before


def test_what_the_guard_refuses_leaves_nothing(store: Store) -> None:
    def guard(item: Item) -> Item:
        def refuse() -> io.BytesIO:
            raise StepError("no", code="secret-leaked")

        return Item(item.entry, refuse) if item.entry.path == "d/small" else item

    with pytest.raises(StepError):
        layers_of(store, guard=guard).add_changes(io.BytesIO(changes_of(*ITEMS)), ())
    assert disks(store) == []
    assert store.blobs.is_empty()
    assert [file.name for file in store.temporary.iterdir()] == ["lock"]
    assert {thread.name for thread in threading.enumerate()}.isdisjoint({"layer", "disk"})


def test_a_tar2sqfs_that_fails_is_told_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "COMPRESSION", ("-c", "nothing-of-the-kind"))
    with pytest.raises(HostError) as caught:
        layers_of(store).add_changes(io.BytesIO(changes_of(*ITEMS)), ())
    assert caught.value.code == "disk-failed"
    assert disks(store) == []
    assert [file.name for file in store.temporary.iterdir()] == ["lock"]


NAMES = st.sampled_from(["a", "b", "c", "dir", "ü", "x" * 90])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=200_000), max_size=8))
def test_any_files_give_the_same_disk_early_and_late(store: Store, files: dict[tuple[str, str], bytes]) -> None:
    stream = changes_of(*(file_item(f"{folder}/{name}", content) for (folder, name), content in files.items()))
    layer = layers_of(store).add_changes(io.BytesIO(stream), ())
    if layer is None:
        return
    (early,) = [path.read_bytes() for path in layers_of(store).disks((layer,))]
    for disk in disks(store):
        disk.unlink()
    (late,) = [path.read_bytes() for path in layers_of(store).disks((layer,))]
    assert early == late


class Unflushed:
    """Stands for the flushing of disks where the machine goes down before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, digest: bool) -> None:
        def settle(settling: Settling, path: Path, stamp: Stamp, known: str) -> None:
            self.asked.append(path)
            if digest:
                settling._seals.put(path, file_digest(path), lasts=False)

        self.asked: list[Path] = []
        monkeypatch.setattr(Settling, "_settle", settle)


@pytest.mark.parametrize("digest", [True, False], ids=["its digest is known", "its digest is not known"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "there"])
def test_a_disk_that_was_not_flushed_is_not_believed_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: bool, lost: bool
) -> None:
    with Store(tmp_path / "store") as store:
        with monkeypatch.context() as patch:
            Unflushed(patch, digest=digest)
            layer = layers_of(store).add_changes(io.BytesIO(changes_of(*ITEMS)), ())
            store.settling.close()
        assert layer is not None
        (disk,) = disks(store)
        right = disk.read_bytes()
        if lost:  # all but its name, size and times, as some file systems leave it
            disk.write_bytes(bytes(len(right)))
            store.seals.put(disk, store.seals.digest(disk), lasts=False)
    monkeypatch.setattr("cache.seals.boot", lambda: "another")
    with Store(tmp_path / "store") as store:
        assert layers_of(store).disks((layer,)) == (disk,)
        assert disk.read_bytes() == right
    with Store(tmp_path / "store") as store:
        seal = store.seals.find(disk)
        assert seal is not None
        assert not seal.boot, "and was flushed by now"


def test_a_disk_whose_maker_was_killed_is_flushed_by_who_uses_it_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "store") as store:
        with monkeypatch.context() as patch:
            Unflushed(patch, digest=False)
            layer = layers_of(store).add_changes(io.BytesIO(changes_of(*ITEMS)), ())
            store.settling.close()
        (disk,) = disks(store)
        before = disk.stat().st_ino
    assert layer is not None
    with Store(tmp_path / "store") as store:
        assert layers_of(store).disks((layer,)) == (disk,)
    assert disk.stat().st_ino == before
    with Store(tmp_path / "store") as store:
        seal = store.seals.find(disk)
        assert seal is not None
        assert not seal.boot
