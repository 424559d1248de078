"""What every place of a cache promises: folders, and what fsspec reaches."""

from __future__ import annotations

import io
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from carry_support import GZIP, digest_of, entry, fetched, index, mount, put, send

from cache.carry.folder import FolderCache
from cache.carry.index import CacheIndex
from cache.carry.objects import MOST_SEGMENTS, ObjectCache
from cache.carry.place import CachePlace
from machinefile.errors import InterruptedBuildError, MbuildError, TransferError, UntrustedDataError

Open = Callable[[], CachePlace]


@pytest.fixture(params=["folder", "memory", "file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same empty place again and again, as different processes would."""
    match request.param:
        case "folder":
            return lambda: FolderCache(tmp_path / "cache")
        case "memory":
            url = f"memory://{uuid.uuid4().hex}/cache"
            return lambda: ObjectCache(url, {})
        case "file":
            return lambda: ObjectCache(f"file://{tmp_path}/cache", {})
    bucket = request.getfixturevalue("make_bucket")()
    options = request.getfixturevalue("s3_options")
    return lambda: ObjectCache(f"s3://{bucket}/some/folder", options)


def test_where_nothing_is_an_empty_index_is_read(place: Open) -> None:
    assert place().read() == CacheIndex()
    assert not place().has(digest_of(b"layer"), 5)


def test_what_is_put_comes_back(place: Open) -> None:
    made = put(place(), "step", b"layer")
    other = place()
    assert other.read() == index(made)
    assert other.has(digest_of(b"layer"), 5)
    assert not other.has(digest_of(b"layer"), 6)
    assert fetched(other, b"layer") == b"layer"


def test_an_empty_blob_comes_back(place: Open) -> None:
    put(place(), "step", b"")
    assert fetched(place(), b"") == b""


def test_what_is_there_is_not_sent_again(place: Open) -> None:
    assert send(place(), b"layer")
    assert not send(place(), b"layer")


def test_a_blob_that_is_not_what_it_is_called_is_not_sent(place: Open) -> None:
    for content in (b"other", b"longer than that", b"l"):
        with pytest.raises(UntrustedDataError) as caught:
            place().send(digest_of(b"layer"), 5, GZIP, lambda content=content: io.BytesIO(content))  # type: ignore[misc]
        assert caught.value.code == "digest-mismatch"
        assert not place().has(digest_of(b"layer"), 5)


def test_a_missing_blob_is_told(place: Open) -> None:
    put(place(), "step", b"layer")
    with pytest.raises(TransferError) as caught:
        fetched(place(), b"never sent")
    assert caught.value.code == "cache-blob-missing"


def test_a_blob_of_another_size_is_told_and_no_more_than_its_size_comes(place: Open) -> None:
    put(place(), "step", b"layer and more")
    came: list[bytes] = []
    with pytest.raises(MbuildError) as caught:
        place().fetch(digest_of(b"layer and more"), 100, came.append)
    assert caught.value.code == "cache-damaged"
    assert len(b"".join(came)) <= 100


def test_a_publication_that_changes_nothing_writes_nothing(place: Open) -> None:
    made = put(place(), "step", b"layer")
    assert not place().publish(lambda old: old)
    assert not place().publish(lambda old: old.merged(index(made)))


def test_others_entries_stay(place: Open) -> None:
    first, second = place(), place()
    first.read()
    second.read()
    one, two = put(first, "one", b"first layer"), put(second, "two", b"second layer")
    assert place().read() == index(one, two)


def test_a_newer_entry_takes_the_place_of_an_older_one(place: Open) -> None:
    put(place(), "step", b"older", used=30_000)
    newer = put(place(), "step", b"newer", used=20_000)
    assert place().read().entries == {newer.key: newer}


def test_an_entry_can_be_taken_away(place: Open) -> None:
    put(place(), "one", b"first")
    two = put(place(), "two", b"second")
    assert place().publish(lambda old: old.only(lambda each: each == two))
    assert place().read().entries == {two.key: two}


def test_mounts_travel(place: Open) -> None:
    made = mount("pip", b"disk")
    send(place(), b"disk")
    place().publish(lambda old: old.merged(index(mounts=[made])))
    assert place().read().mounts == {made.identity: made}


def test_many_threads_lose_nothing(place: Open) -> None:
    shared = place()
    made = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            made.append(put(shared if number % 2 else place(), f"step {number}", b"layer %d" % number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    assert place().read().entries == {one.key: one for one in made}
    assert len(made) == 10


def test_a_stopped_build_stops(tmp_path: Path) -> None:
    cancelled = threading.Event()
    folder = FolderCache(tmp_path / "folder", cancelled=cancelled)
    for place in (folder, ObjectCache(f"file://{tmp_path}/files", {}, cancelled)):
        put(place, "step", b"layer")
        cancelled.set()
        with pytest.raises(InterruptedBuildError):
            fetched(place, b"layer")
        with pytest.raises(InterruptedBuildError):
            send(place, b"another")
        cancelled.clear()
        assert not place.has(digest_of(b"another"), 7)


def test_entries_without_their_blobs_do_not_stay(place: Open) -> None:
    """A folder looks at once, an object store when it makes one segment of many."""
    lost = entry("lost", b"never sent")
    shared = place()
    shared.publish(lambda old: old.merged(index(lost)))
    for number in range(MOST_SEGMENTS):
        put(shared, f"step {number}", b"layer %d" % number)
    assert lost.key not in shared.read().entries
    assert len(place().read().entries) == MOST_SEGMENTS
