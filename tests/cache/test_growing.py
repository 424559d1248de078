"""A blob read while it is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache.blobs import BlobStore, digest_of
from cache.growing import GrowingBlob
from cache.index import Index
from cache.seals import Seals
from machinefile.errors import InterruptedBuildError, UntrustedDataError

DATA = bytes(range(256)) * 4096


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    return BlobStore(tmp_path, tmp_path / "tmp", Seals(tmp_path, Index(tmp_path / "index")))


@pytest.fixture
def growing() -> Iterator[GrowingBlob]:
    blob = GrowingBlob()
    yield blob
    blob.end()
    blob.close()


def test_a_reader_gets_what_is_there_before_the_rest_is_written(blobs: BlobStore, growing: GrowingBlob) -> None:
    with blobs.writer(digest_of(DATA), growing) as writer:
        writer.write(DATA[:1000])
        follower = growing.open()
        assert follower is not None
        with follower:
            assert follower.read(1 << 20) == DATA[:1000]
            writer.write(DATA[1000:3000])
            assert follower.read(500) == DATA[1000:1500]
            assert follower.read(5000) == DATA[1500:3000]
            follower.seek(10)
            assert follower.read(10) == DATA[10:20]
            writer.write(DATA[3000:])


def test_a_reader_waits_and_comes_to_the_end_with_the_blob(blobs: BlobStore, growing: GrowingBlob) -> None:
    found: list[bytes] = []

    def read() -> None:
        follower = growing.open()
        assert follower is not None
        with follower:
            found.append(follower.read())

    thread = threading.Thread(target=read)
    thread.start()
    with blobs.writer(digest_of(DATA), growing) as writer:
        for at in range(0, len(DATA), 1000):
            writer.write(DATA[at : at + 1000])
    thread.join(10)
    assert found == [DATA]
    assert blobs.read(digest_of(DATA)) == DATA


def test_two_readers_do_not_disturb_each_other_or_the_writer(blobs: BlobStore, growing: GrowingBlob) -> None:
    with blobs.writer(digest_of(DATA), growing) as writer:
        writer.write(DATA[:-1])
        first, second = growing.open(), growing.open()
        assert first is not None
        assert second is not None
        with first, second:
            assert first.read(100) == second.read(100) == DATA[:100]
            assert first.read(100) == DATA[100:200]
        writer.write(DATA[-1:])
    assert blobs.verify(digest_of(DATA))


def test_a_blob_that_is_not_what_it_should_be_has_no_end(blobs: BlobStore, growing: GrowingBlob) -> None:
    context = blobs.writer(digest_of(b"other"), growing)
    context.__enter__().write(DATA)
    follower = growing.open()
    with pytest.raises(UntrustedDataError):
        context.__exit__(None, None, None)
    growing.end()
    assert follower is not None
    with follower:
        assert follower.read(len(DATA)) == DATA
        with pytest.raises(InterruptedBuildError):
            follower.read(1)


def test_a_blob_that_never_began_has_no_reader(growing: GrowingBlob) -> None:
    growing.end()
    assert growing.open() is None


def test_a_reader_outlives_the_opening(blobs: BlobStore, growing: GrowingBlob) -> None:
    with blobs.writer(digest_of(DATA), growing) as writer:
        follower = growing.open()
        writer.write(DATA)
    growing.close()
    assert follower is not None
    assert growing.open() is None
    with follower:
        assert follower.read() == DATA


def test_a_blob_that_is_followed_cannot_begin_again(blobs: BlobStore, growing: GrowingBlob) -> None:
    with pytest.raises(ValueError, match="begin again"), blobs.writer(growing=growing) as writer:
        writer.restart()
