"""Caches in the store: who may use one at once, and that what is kept is whole."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cache.store import Store
from engine.cachemounts import CacheMounts, CacheRequest, cache_bytes
from machinefile.errors import InterruptedBuildError, UsageError
from machinefile.steps import Sharing

SHARED, LOCKED, PRIVATE = (CacheRequest("c", sharing) for sharing in (Sharing.SHARED, Sharing.LOCKED, Sharing.PRIVATE))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("MBUILD_CACHE_MOUNT_BYTES", "16M")
    with Store(tmp_path / "store") as opened:
        yield opened


class Step:
    """Holds a cache, and tells who waited."""

    def __init__(self, store: Store, request: CacheRequest, cancelled: threading.Event | None = None) -> None:
        self.waited: list[str] = []
        self.stack = ExitStack()
        event = cancelled or threading.Event()
        held = self.stack.enter_context(CacheMounts(store).borrow([request], event, self.waited.append))
        self.cache = held[request.identity]

    def write(self, content: bytes) -> None:
        with self.cache.disk.open("r+b") as disk:
            disk.write(content)

    def keep(self) -> None:
        self.cache.keep(merge, threading.Event())

    def read(self) -> bytes:
        with self.cache.disk.open("rb") as disk:
            return disk.read(8).rstrip(b"\0")

    def end(self) -> None:
        self.stack.close()


def merge(newer: Path, into: Path) -> None:
    """As if the disks held letters."""
    with newer.open("rb") as one, into.open("r+b") as other:
        both = sorted(set(one.read(8).rstrip(b"\0")) | set(other.read(8).rstrip(b"\0")))
        other.seek(0)
        other.write(bytes(both))


def _cannot_be_had(store: Store, request: CacheRequest) -> bool:
    """Whether a step would wait for it; it gives up then."""
    cancelled = threading.Event()
    waited: list[str] = []

    def waiting(cache_id: str) -> None:
        waited.append(cache_id)
        cancelled.set()

    try:
        with CacheMounts(store).borrow([request], cancelled, waiting):
            pass
    except InterruptedBuildError:
        assert waited == ["c"]
        return True
    return False


def test_what_is_kept_is_what_the_next_step_gets(store: Store) -> None:
    first = Step(store, SHARED)
    assert first.cache.is_new
    first.write(b"one")
    first.keep()
    first.end()
    second = Step(store, LOCKED)
    assert (second.cache.is_new, second.read()) == (False, b"one")
    second.write(b"not kept")
    second.end()
    third = Step(store, SHARED)
    assert third.read() == b"one"
    third.end()
    assert not list(store.temporary.glob("*/disk")), "no copy is left"


def test_steps_that_shared_it_at_once_are_merged(store: Store) -> None:
    steps = [Step(store, SHARED) for _ in range(3)]
    for step, letter in zip(steps, (b"a", b"b", b"c"), strict=True):
        step.write(letter)
        step.keep()
        step.end()
    last = Step(store, SHARED)
    assert last.read() == b"abc"
    last.end()


@pytest.mark.parametrize(("holder", "other"), [(SHARED, LOCKED), (LOCKED, SHARED), (LOCKED, LOCKED)])
def test_a_locked_cache_is_used_by_nobody_else(store: Store, holder: CacheRequest, other: CacheRequest) -> None:
    step = Step(store, holder)
    assert _cannot_be_had(store, other)
    step.end()
    assert not _cannot_be_had(store, other)


def test_private_caches_are_the_first_that_nobody_uses(store: Store) -> None:
    one, two = Step(store, PRIVATE), Step(store, PRIVATE)
    for step, letter in ((one, b"1"), (two, b"2")):
        step.write(letter)
        step.keep()
    one.end()
    again = Step(store, PRIVATE)
    assert again.read() == b"1"
    again.end()
    two.end()


def test_the_strictest_sharing_of_a_step_counts_and_it_gets_one_disk(store: Store) -> None:
    with CacheMounts(store).borrow([SHARED, LOCKED], threading.Event(), lambda _: None) as held:
        assert len(held) == 1
        assert _cannot_be_had(store, SHARED)


def test_a_step_that_waits_gets_it_when_the_other_is_over(store: Store) -> None:
    holder = Step(store, LOCKED)
    got: list[Step] = []
    waiter = threading.Thread(target=lambda: got.append(Step(store, LOCKED)))
    waiter.start()
    holder.write(b"x")
    holder.keep()
    holder.end()
    waiter.join(20)
    assert got[0].read() == b"x"
    got[0].end()


def test_a_merge_that_fails_leaves_the_cache_as_it_was(store: Store) -> None:
    one, two = Step(store, SHARED), Step(store, SHARED)
    one.write(b"one")
    one.keep()
    two.write(b"two")

    def fail(newer: Path, into: Path) -> None:
        into.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        two.cache.keep(fail, threading.Event())
    one.end()
    two.end()
    after = Step(store, SHARED)
    assert after.read() == b"one"
    after.end()


def test_another_origin_or_owner_is_another_cache() -> None:
    requests = [SHARED, CacheRequest("d", Sharing.SHARED), CacheRequest("c", Sharing.SHARED, "layers")]
    requests.append(CacheRequest("c", Sharing.SHARED, owner=(0o700, None, None)))
    assert len({request.identity for request in requests}) == 4
    assert SHARED.identity == LOCKED.identity == PRIVATE.identity


@pytest.mark.parametrize("size", ["x", "1M", "-5G"])
def test_a_size_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("MBUILD_CACHE_MOUNT_BYTES", size)
    with pytest.raises(UsageError):
        cache_bytes()
