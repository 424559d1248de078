"""Cache mounts that travel: what is on a disk goes out once, and comes back as it was, or not at all."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from export_place import FakeSigner, MemoryPlace

from cache.carry.artifact import MOUNT_TYPE
from cache.carry.entry import CarriedMount
from cache.carry.place import CachePlace
from cache.store import Store
from engine.cachemounts import CacheMounts, CacheRequest
from engine.carry.export import Exported, OpenTarget, PackedMount
from engine.carry.mounts import MountPacker, MountSeeds, wanted_mounts
from engine.carry.spec import CacheTarget, CacheType
from engine.events import Event, WarningRaised, ignore
from machinefile.errors import InterruptedBuildError
from machinefile.steps import Sharing

if TYPE_CHECKING:
    from conftest import Workshop

SIZE = 16 << 20
REQUEST = CacheRequest("c", Sharing.SHARED)
TEXT = "FROM base\nRUN --mount=type=cache,id=c,target=/c write a b\nRUN --mount=type=cache,id=d,target=/d write e f\n"


@pytest.fixture(autouse=True)
def _small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBUILD_CACHE_MOUNT_BYTES", "16M")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "here") as opened:
        yield opened


def fill(store: Store, content: bytes, request: CacheRequest = REQUEST, at: int = 1 << 20) -> None:
    """As if a step had left that in the cache."""
    with CacheMounts(store).borrow([request], threading.Event(), lambda _: None) as held:
        cache = held[request.identity]
        with cache.disk.open("r+b") as disk:
            disk.seek(at)
            disk.write(content)
        cache.keep(lambda one, other: None, threading.Event())


def carried(store: Store, place: MemoryPlace, request: CacheRequest = REQUEST) -> CarriedMount:
    """The cache, sent to a place."""
    with MountPacker(store, ignore, threading.Event()) as packer:
        packed = packer.pack(request)
        assert packed is not None
        place.send(packed.mount.digest, packed.mount.size, MOUNT_TYPE, packed.open)
        return packed.mount


class Elsewhere:
    """A place with mounts, and what it leads to."""

    def __init__(self, *mounts: CarriedMount, place: MemoryPlace) -> None:
        self.mounts = mounts
        self.place = place
        self.events: list[Event] = []
        self.cancelled = threading.Event()

    def offers(self, identity: str) -> Iterable[tuple[CarriedMount, CachePlace]]:
        return [(mount, self.place) for mount in self.mounts if mount.identity == identity]

    def borrow(self, store: Store) -> tuple[bool, bytes]:
        """Whether a step's cache is new, and what it has."""
        seeds = MountSeeds(self.offers, store, self.events.append, self.cancelled)
        with CacheMounts(store, seeds.seed).borrow([REQUEST], threading.Event(), lambda _: None) as held:
            cache = held[REQUEST.identity]
            with cache.disk.open("rb") as disk:
                disk.seek(1 << 20)
                return cache.is_new, disk.read(8).rstrip(b"\0")

    @property
    def warnings(self) -> list[str]:
        return [event.code for event in self.events if isinstance(event, WarningRaised)]


def test_a_cache_comes_back_as_it_was_and_stays(store: Store, tmp_path: Path) -> None:
    fill(store, b"content")
    place = MemoryPlace()
    mount = carried(store, place)
    assert mount.size < 1 << 20, "holes do not travel"
    with Store(tmp_path / "there") as there:
        assert Elsewhere(mount, place=place).borrow(there) == (False, b"content")
        disks = [CacheMounts(one).disk(REQUEST) for one in (store, there)]
        assert disks[0].read_bytes() == disks[1].read_bytes()
        # It is a cache like any other now.
        assert Elsewhere(place=place).borrow(there) == (False, b"content")
        assert place.fetched == [mount.digest]
        assert not [one for one in there.temporary.iterdir() if one.name != "lock"]


def test_a_cache_that_is_not_empty_is_left_as_it_is(store: Store, tmp_path: Path) -> None:
    fill(store, b"theirs")
    place = MemoryPlace()
    mount = carried(store, place)
    with Store(tmp_path / "there") as there:
        fill(there, b"ours")
        assert Elsewhere(mount, place=place).borrow(there) == (False, b"ours")
    assert place.fetched == []


def test_steps_that_begin_at_once_fetch_it_once(store: Store, tmp_path: Path) -> None:
    fill(store, b"content")
    place = MemoryPlace()
    elsewhere = Elsewhere(carried(store, place), place=place)
    with Store(tmp_path / "there") as there:
        got: list[tuple[bool, bytes]] = []
        threads = [threading.Thread(target=lambda: got.append(elsewhere.borrow(there))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert got == [(False, b"content")] * 4
    assert len(place.fetched) == 1


def test_an_unchanged_cache_is_read_once_and_gives_the_same_blob(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, b"content")
    place = MemoryPlace()
    first = carried(store, place)
    with MountPacker(store, ignore, threading.Event()) as packer:
        monkeypatch.setattr(packer, "_write", None)  # it would be called to read the disk
        again = packer.pack(REQUEST)
    assert again is not None
    assert (again.mount.digest, again.mount.size) == (first.digest, first.size)
    # A place that does not have it gets the same.
    assert carried(store, MemoryPlace()).digest == first.digest
    fill(store, b"other")
    assert carried(store, MemoryPlace()).digest != first.digest


def hostile(case: str, place: MemoryPlace, good: CarriedMount) -> CarriedMount:
    """A mount that is not what it should be, its blob at the place."""
    magic = b"MBRUNS\0\1"
    run = struct.Struct("<QQ")
    huge = magic + struct.pack("<Q", 1 << 40) + run.pack(1 << 40, 0)
    streams = {
        "no stream": b"x" * 100,
        "too large": huge,
        "odd": magic + struct.pack("<Q", 5000) + run.pack(5000, 0),
        "empty": magic + struct.pack("<Q", 0) + run.pack(0, 0),
        "outside": magic + struct.pack("<Q", SIZE) + run.pack(SIZE, 4096) + bytes(4096),
        "cut": magic + struct.pack("<Q", SIZE),
        "bomb": magic + struct.pack("<Q", SIZE) + b"".join(run.pack(0, 4096) + bytes(4096) for _ in range(3)),
    }
    if case in streams:
        data = zstandard.compress(streams[case])
    else:
        data = {"damaged": place.blobs[good.digest][:-1] + b"?", "short": place.blobs[good.digest][:-5]}[case]
        place.blobs[good.digest] = data
        return good
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    place.blobs[digest] = data
    return replace(good, digest=digest, size=len(data))


@pytest.mark.parametrize(
    "case", ["no stream", "too large", "odd", "empty", "outside", "cut", "bomb", "damaged", "short"]
)
def test_what_is_no_disk_is_a_warning_and_leaves_the_cache_empty(store: Store, tmp_path: Path, case: str) -> None:
    fill(store, b"content")
    place = MemoryPlace()
    mount = hostile(case, place, carried(store, place))
    with Store(tmp_path / "there") as there:
        elsewhere = Elsewhere(mount, place=place)
        assert elsewhere.borrow(there) == (True, b"")
        assert len(elsewhere.warnings) == 1
        assert not CacheMounts(there).disk(REQUEST).exists()
        assert not [one for one in there.temporary.iterdir() if one.name != "lock"]


def test_more_than_a_layer_may_have_is_not_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, os.urandom(2 << 20))
    place = MemoryPlace()
    mount = carried(store, place)
    monkeypatch.setenv("MBUILD_MAX_LAYER_BYTES", "1M")
    with Store(tmp_path / "there") as there:
        elsewhere = Elsewhere(mount, place=place)
        assert elsewhere.borrow(there)[0]
        assert elsewhere.warnings == ["layer-too-large"]


def test_the_second_place_is_asked_when_the_first_fails(store: Store, tmp_path: Path) -> None:
    fill(store, b"content")
    place = MemoryPlace()
    good = carried(store, place)
    gone = replace(good, digest="sha256:" + "1" * 64)
    with Store(tmp_path / "there") as there:
        elsewhere = Elsewhere(gone, good, place=place)
        assert elsewhere.borrow(there) == (False, b"content")
        assert elsewhere.warnings == ["blob-unknown"]


def test_a_stopped_build_stops_fetching_and_packing(store: Store, tmp_path: Path) -> None:
    fill(store, b"content")
    place = MemoryPlace()
    elsewhere = Elsewhere(carried(store, place), place=place)
    elsewhere.cancelled.set()
    with Store(tmp_path / "there") as there:
        with pytest.raises(InterruptedBuildError):
            elsewhere.borrow(there)
        assert not CacheMounts(there).disk(REQUEST).exists()
    fill(store, b"another")
    with MountPacker(store, ignore, elsewhere.cancelled) as packer, pytest.raises(InterruptedBuildError):
        packer.pack(REQUEST)


class Sending:
    """Builds that send cache mounts."""

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.place = MemoryPlace()
        self.signer: FakeSigner | None = None

    def build(self, *mounts: str) -> Exported:
        request = replace(
            self.workshop.request(TEXT), cache_to=(CacheTarget(CacheType.FSSPEC, "memory://x", mounts=mounts),)
        )
        driver = self.workshop.driver
        driver.open_target = lambda target: OpenTarget(target, self.place, self.signer)
        report = driver.build(request)
        assert report.exports is not None
        assert report.exports.failure is None
        return report.exports.exported[0]

    @property
    def ids(self) -> set[str]:
        return {mount.id for mount in self.place.index.mounts.values()}


@pytest.fixture
def sending(workshop: Workshop) -> Sending:
    return Sending(workshop)


def test_mounts_go_out_where_they_are_asked_for(sending: Sending) -> None:
    assert sending.build().mounts == 0
    assert sending.build("c").mounts == 1
    assert sending.ids == {"c"}
    assert sending.build("*").mounts == 1
    assert sending.ids == {"c", "d"}
    assert set(sending.place.types.values()) >= {MOUNT_TYPE}
    sending.place.sent.clear()
    assert sending.build("*") == Exported("memory", 0, 0, 0)
    assert sending.place.sent == []


def test_an_id_that_no_step_mounts_is_told(sending: Sending) -> None:
    assert sending.build("cc").mounts == 0
    warned = [event.message for event in sending.workshop.events if isinstance(event, WarningRaised)]
    assert warned == ["no RUN mounts a cache 'cc': did you mean 'c'?"]


def test_mounts_are_signed_and_get_a_signature_that_is_missing(sending: Sending) -> None:
    sending.build("c")
    sending.signer = FakeSigner()
    assert sending.build("c").mounts == 1
    (mount,) = sending.place.index.mounts.values()
    assert FakeSigner().trusts(mount)
    assert sending.build("c").mounts == 0


@pytest.mark.parametrize("changes", [{"created": 5}, {"size": 5}, {"id": "other"}])
def test_nobody_signs_what_others_wrote_of_a_mount(sending: Sending, changes: dict[str, Any]) -> None:
    sending.signer = FakeSigner()
    sending.build("c")
    (true,) = sending.place.index.mounts.values()
    sending.place.index = replace(sending.place.index, mounts={true.identity: replace(true, **changes)})
    sending.build("c")
    (mount,) = sending.place.index.mounts.values()
    assert (mount.id, mount.digest, mount.size) == (true.id, true.digest, true.size)
    assert mount.created >= true.created
    assert FakeSigner().trusts(mount)


def test_an_older_disk_does_not_take_the_place_of_a_newer(sending: Sending) -> None:
    sending.build("c")
    (mount,) = sending.place.index.mounts.values()
    theirs = b"of another machine"
    digest = "sha256:" + hashlib.sha256(theirs).hexdigest()
    sending.place.blobs[digest] = theirs
    # What is yet to come was sent by a machine whose clock is wrong.
    for ahead, kept in ((100, True), (-3600, False), (3600, False)):
        created = mount.created + ahead
        newer = replace(mount, digest=digest, size=len(theirs), created=created)
        sending.place.index = replace(sending.place.index, mounts={mount.identity: newer})
        sending.build("c")
        (now,) = sending.place.index.mounts.values()
        assert (now.digest == digest) is kept


@pytest.mark.parametrize("signer", [None, FakeSigner()], ids=["unsigned", "signed"])
def test_no_time_that_is_to_come_stays(sending: Sending, signer: FakeSigner | None) -> None:
    sending.signer = signer
    sending.build("c")
    (true,) = sending.place.index.mounts.values()
    ahead = replace(true, created=true.created + 3600)
    ahead = signer.sign(ahead) if signer else ahead
    sending.place.index = replace(sending.place.index, mounts={true.identity: ahead})
    sending.build("c")
    (now,) = sending.place.index.mounts.values()
    assert true.created <= now.created < ahead.created


def test_caches_that_begin_with_files_count_when_a_step_had_them(sending: Sending) -> None:
    plan = sending.workshop.plan("FROM base\nRUN --mount=type=cache,id=c,from=base,source=/etc,target=/c write a b\n")
    borrowed = CacheRequest("c", Sharing.SHARED, "layers:x/etc")
    warned: list[str] = []
    assert wanted_mounts(["c"], plan, [], warned.append) == ()
    assert wanted_mounts(["c"], plan, [borrowed], warned.append) == (borrowed,)
    assert warned == []


def test_packed_mounts_say_when_their_disk_changed(store: Store) -> None:
    fill(store, b"content")
    os.utime(CacheMounts(store).disk(REQUEST), (1000, 1000))
    with MountPacker(store, ignore, threading.Event()) as packer:
        packed = packer.pack(REQUEST)
        assert isinstance(packed, PackedMount)
        assert packed.changed == 1000
        assert packer.pack(CacheRequest("nothing", Sharing.SHARED)) is None
