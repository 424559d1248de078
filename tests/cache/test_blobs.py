"""Blobs: whole under their name, or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cache.blobs import BlobStore, digest_of
from cache.index import Index
from cache.seals import Seals
from machinefile.errors import StoreError, UntrustedDataError


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "tmp").mkdir()
    return BlobStore(tmp_path, tmp_path / "tmp", Seals(tmp_path, Index(tmp_path / "index")))


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "tmp").iterdir())


def test_what_is_put_can_be_read(blobs: BlobStore) -> None:
    digest = blobs.put(b"content")
    assert digest == digest_of(b"content")
    assert blobs.read(digest) == b"content"
    assert blobs.has(digest)
    assert blobs.has(digest, 7)
    assert not blobs.has(digest, 8)
    assert blobs.verify(digest)


def test_a_blob_with_another_digest_than_expected_is_not_kept(blobs: BlobStore, tmp_path: Path) -> None:
    expected = digest_of(b"promised")
    with pytest.raises(UntrustedDataError) as caught, blobs.writer(expected) as writer:
        writer.write(b"delivered")
    assert caught.value.code == "digest-mismatch"
    assert not blobs.has(expected)
    assert not blobs.has(digest_of(b"delivered"))
    assert leftovers(tmp_path) == []


def test_a_writer_that_is_interrupted_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    def write_half() -> None:
        with blobs.writer() as writer:
            writer.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert leftovers(tmp_path) == []
    assert list((tmp_path / "blobs" / "sha256").iterdir()) == []


def test_a_writer_that_begins_again_forgets_what_it_had(blobs: BlobStore) -> None:
    with blobs.writer(digest_of(b"good")) as writer:
        writer.write(b"bad start")
        writer.restart()
        writer.write(b"good")
    assert blobs.read(digest_of(b"good")) == b"good"


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 64])
def test_a_digest_is_never_a_path(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        blobs.path(digest)
    assert caught.value.code == "digest-invalid"


def test_a_damaged_blob_is_noticed_and_removed(blobs: BlobStore) -> None:
    digest = blobs.put(b"content")
    blobs.path(digest).write_bytes(b"c0ntent")
    assert not blobs.verify(digest)
    with pytest.raises(StoreError) as caught:
        blobs.read(digest)
    assert caught.value.code == "blob-corrupt"
    assert not blobs.has(digest)


def test_a_blob_that_is_gone_says_so(blobs: BlobStore) -> None:
    with pytest.raises(StoreError) as caught:
        blobs.open(digest_of(b"never stored"))
    assert caught.value.code == "blob-missing"


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "store-full"), (errno.EDQUOT, "store-full"), (errno.EROFS, "store-read-only")],
)
def test_a_disk_that_refuses_leaves_nothing_and_says_what_to_do(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError) as caught:
        blobs.put(b"content")
    assert caught.value.code == code
    assert "--cache-dir" in caught.value.hint
    assert leftovers(tmp_path) == []
    assert not blobs.has(digest_of(b"content"))


def test_a_large_blob_that_is_read_as_a_small_one_stays(blobs: BlobStore) -> None:
    digest = blobs.put(b"a layer")
    with pytest.raises(StoreError) as caught:
        blobs.read(digest, 6)
    assert caught.value.code == "blob-too-large"
    assert blobs.verify(digest)
    assert blobs.read(digest, 7) == b"a layer"
