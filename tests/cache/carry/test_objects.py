"""A cache wherever fsspec reaches: segments of the index, what may fail, what is cleaned up."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from carry_support import GZIP, digest_of, entry, fetched, index, put, send
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from cache.carry import filesystem, objects
from cache.carry.index import CacheIndex
from cache.carry.objects import KEPT_DAYS, MOST_SEGMENTS, ObjectCache
from machinefile.errors import (
    HostError,
    InterruptedBuildError,
    MbuildError,
    TransferError,
    UntrustedDataError,
    UsageError,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for nothing, and gives nothing up because this machine is slow."""
    monkeypatch.setattr(filesystem, "_BACKOFF", 0.001)
    monkeypatch.setattr(filesystem, "_PATIENCE", 300.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def in_folder(folder: Path) -> ObjectCache:
    return ObjectCache(f"file://{folder}", {})


def segments(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "index"))


def blob(folder: Path, content: bytes) -> Path:
    return folder / "blobs" / "sha256" / digest_of(content)[7:]


def age(path: Path, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_every_publication_is_a_segment_of_what_is_new_until_there_are_many(folder: Path) -> None:
    sizes = []
    for number in range(MOST_SEGMENTS):
        put(in_folder(folder), f"step {number}", b"layer %d" % number)
        sizes.append(max((folder / "index" / name).stat().st_size for name in segments(folder)))
    assert len(segments(folder)) == MOST_SEGMENTS
    assert max(sizes) < 1.2 * min(sizes)
    put(in_folder(folder), "last", b"last layer")
    assert len(segments(folder)) == 1
    assert len(in_folder(folder).read().entries) == MOST_SEGMENTS + 1


def test_who_makes_one_of_many_removes_only_what_it_read(folder: Path) -> None:
    for number in range(MOST_SEGMENTS):
        put(in_folder(folder), f"step {number}", b"layer %d" % number)
    late = []

    def change(old: CacheIndex) -> CacheIndex:
        late.append(put(in_folder(folder), "meanwhile", b"another layer"))
        return old.merged(index(entry("mine", b"layer 0")))

    assert in_folder(folder).publish(change)
    assert late[0].key in in_folder(folder).read().entries
    assert len(in_folder(folder).read().entries) == MOST_SEGMENTS + 2


def test_two_who_make_one_of_many_at_once_lose_nothing(folder: Path) -> None:
    for number in range(MOST_SEGMENTS):
        put(in_folder(folder), f"step {number}", b"layer %d" % number)
    before = in_folder(folder).read()
    meet = threading.Barrier(4, timeout=60)

    def publish(number: int) -> None:
        place = in_folder(folder)
        send(place, b"new %d" % number)

        def change(old: CacheIndex) -> CacheIndex:
            meet.wait()
            return old.merged(index(entry(f"new {number}", b"new %d" % number)))

        place.publish(change)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = in_folder(folder).read().entries
    assert found.keys() == before.entries.keys() | {entry(f"new {number}").key for number in range(4)}


def test_a_reader_lists_again_where_a_segment_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(MOST_SEGMENTS):
        put(in_folder(folder), f"step {number}", b"layer %d" % number)
    place = in_folder(folder)
    listing = place._files.list

    def list_and_be_late(path: str) -> Any:
        found = listing(path)
        if len(segments(folder)) == MOST_SEGMENTS:
            put(in_folder(folder), "meanwhile", b"another layer")
        return found

    monkeypatch.setattr(place._files, "list", list_and_be_late)
    assert len(place.read().entries) == MOST_SEGMENTS + 1


def test_the_newer_segment_counts_whatever_the_clock_of_the_older_said(folder: Path) -> None:
    put(in_folder(folder), "step", b"older")
    (name,) = segments(folder)
    os.rename(folder / "index" / name, folder / "index" / ("8" * 15 + name[15:]))
    newer = put(in_folder(folder), "step", b"newer")
    assert in_folder(folder).read() == index(newer)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x28\xb5\x2f\xfd" + bytes(20)], ids=range(3))
def test_a_segment_that_makes_no_sense_does_not_cost_the_others(folder: Path, content: bytes) -> None:
    bad = folder / "index" / "000000000000001-0123456789abcdef.json.zst"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(content)
    with pytest.raises(UntrustedDataError) as caught:
        in_folder(folder).read()
    assert caught.value.code == "cache-invalid"
    for number in range(2 * MOST_SEGMENTS):
        put(in_folder(folder), f"step {number}", b"layer %d" % number)
    assert len(in_folder(folder).read().entries) == 2 * MOST_SEGMENTS
    # Nobody could read it: it may be of a version that is yet to come.
    assert bad.exists()


def test_what_is_no_segment_is_left_alone(folder: Path) -> None:
    put(in_folder(folder), "step", b"layer")
    (folder / "index" / "README").write_text("hello")
    (folder / "index" / "folder").mkdir()
    assert len(in_folder(folder).read().entries) == 1


def test_an_index_that_is_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(in_folder(folder), "step", b"layer")
    monkeypatch.setattr(objects, "MAX_BYTES", 10)
    with pytest.raises(UntrustedDataError) as caught:
        in_folder(folder).read()
    assert caught.value.code == "cache-invalid"


def drop_all(folder: Path) -> None:
    assert in_folder(folder).publish(lambda old: CacheIndex())


def test_what_no_entry_needs_goes_when_it_is_old(folder: Path) -> None:
    put(in_folder(folder), "kept", b"kept layer")
    for name in (b"old", b"young"):
        put(in_folder(folder), name.decode(), name)
    age(blob(folder, b"old"), KEPT_DAYS + 1)
    age(blob(folder, b"kept layer"), KEPT_DAYS + 1)
    in_folder(folder).publish(lambda old: old.only(lambda one: one == entry("kept", b"kept layer")))
    assert not blob(folder, b"old").exists()
    assert blob(folder, b"young").exists()
    assert blob(folder, b"kept layer").exists()


def test_nothing_goes_while_a_segment_cannot_be_read(folder: Path) -> None:
    put(in_folder(folder), "old", b"old")
    age(blob(folder, b"old"), KEPT_DAYS + 1)
    (folder / "index" / "000000000000001-0123456789abcdef.json.zst").write_bytes(b"of another version")
    drop_all(folder)
    assert blob(folder, b"old").exists()


def test_an_old_blob_that_may_go_is_sent_again(folder: Path) -> None:
    put(in_folder(folder), "needed", b"needed")
    send(in_folder(folder), b"unneeded")
    for content in (b"needed", b"unneeded"):
        age(blob(folder, content), KEPT_DAYS - 1)
    assert not send(in_folder(folder), b"needed")
    assert send(in_folder(folder), b"unneeded")
    assert not send(in_folder(folder), b"unneeded")


def test_a_damaged_blob_is_told(folder: Path) -> None:
    put(in_folder(folder), "step", b"layer")
    blob(folder, b"layer").write_bytes(b"lay")
    with pytest.raises(UntrustedDataError) as caught:
        fetched(in_folder(folder), b"layer")
    assert caught.value.code == "cache-damaged"


def test_a_large_blob_goes_and_comes_in_parts(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(filesystem, "PART", 1 << 20)
    monkeypatch.setattr(objects, "PART", 1 << 20)
    content = random.Random(1).randbytes((7 << 19) + 1)
    for place in (in_folder(folder), ObjectCache(f"memory://{uuid.uuid4().hex}", {})):
        send(place, content)
        parts: list[bytes] = []
        place.fetch(digest_of(content), len(content), parts.append)
        assert b"".join(parts) == content
        assert [len(part) for part in parts] == [1 << 20, 1 << 20, 1 << 20, (1 << 19) + 1]


def test_s3_takes_a_large_blob_in_parts(s3_bucket: str, s3_options: dict[str, str]) -> None:
    place = ObjectCache(f"s3://{s3_bucket}/large", s3_options)
    content = random.Random(2).randbytes(2 * filesystem.PART + 7)
    assert send(place, content)
    assert not send(place, content)
    assert fetched(place, content) == content


def test_s3_has_nothing_of_a_large_blob_that_failed(s3_bucket: str, s3_options: dict[str, str]) -> None:
    import s3fs

    place = ObjectCache(f"s3://{s3_bucket}/failed", s3_options)
    content = bytes(2 * filesystem.PART + 7)
    with pytest.raises(UntrustedDataError):
        place.send(digest_of(b"other"), len(content), GZIP, lambda: io.BytesIO(content))
    assert not place.has(digest_of(b"other"), len(content))
    system = s3fs.S3FileSystem(**s3_options, skip_instance_cache=True)
    assert system.find(f"{s3_bucket}/failed") == []
    assert not system.call_s3("list_multipart_uploads", Bucket=s3_bucket).get("Uploads")


def test_s3_says_that_there_is_no_such_bucket(s3_options: dict[str, str]) -> None:
    place = ObjectCache(f"s3://bucket-{uuid.uuid4().hex}/cache", s3_options)
    assert place.read() == CacheIndex()
    with pytest.raises(TransferError) as caught:
        send(place, b"layer")
    assert caught.value.code == "cache-failed"
    assert "bucket" in caught.value.hint


class Flaky(MemoryFileSystem):  # type: ignore[misc]
    """Fails at random: before anything was done, or after."""

    protocol = ("memory", "flaky")
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    chance = random.Random(0)
    share = 0.0
    error: Callable[[], Exception] = lambda: OSError("connection reset")
    failed = 0

    @classmethod
    @contextmanager
    def failing(cls, share: float, error: Callable[[], Exception] | None = None) -> Iterator[None]:
        cls.share, cls.failed = share, 0
        cls.error = error or (lambda: OSError("connection reset"))
        try:
            yield
        finally:
            cls.share = 0.0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.replace("flaky://", "memory://"))
        return stripped

    def _perhaps(self, name: str, *arguments: Any, **options: Any) -> Any:
        made = None
        before, after = (self.chance.random() < self.share / 2 for _ in range(2))
        if not before:
            made = getattr(super(), name)(*arguments, **options)
        if before or after:
            type(self).failed += 1
            raise type(self).error()
        return made

    def ls(self, *arguments: Any, **options: Any) -> Any:
        return self._perhaps("ls", *arguments, **options)

    def info(self, *arguments: Any, **options: Any) -> Any:
        return self._perhaps("info", *arguments, **options)

    def cat_file(self, *arguments: Any, **options: Any) -> Any:
        return self._perhaps("cat_file", *arguments, **options)

    def pipe_file(self, *arguments: Any, **options: Any) -> Any:
        return self._perhaps("pipe_file", *arguments, **options)

    def rm_file(self, *arguments: Any, **options: Any) -> Any:
        return self._perhaps("rm_file", *arguments, **options)


@pytest.fixture
def flaky() -> Iterator[ObjectCache]:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.chance.seed(1)
    yield ObjectCache(f"flaky://{uuid.uuid4().hex}", {})
    Flaky.store.clear()


def test_what_fails_now_and_then_is_tried_again(flaky: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystem, "_ATTEMPTS", 12)
    with Flaky.failing(0.4):
        made = [put(flaky, f"step {number}", b"layer %d" % number) for number in range(2 * MOST_SEGMENTS)]
        assert flaky.read() == index(*made)
        assert [fetched(flaky, b"layer %d" % number) for number in range(3)] == [b"layer 0", b"layer 1", b"layer 2"]
    assert Flaky.failed > 10


def test_wherever_it_fails_for_good_nothing_wrong_stays(flaky: ObjectCache) -> None:
    made = [put(flaky, f"step {number}", b"layer %d" % number) for number in range(MOST_SEGMENTS)]
    told = []
    for number in range(40):
        with Flaky.failing(0.5):
            try:
                made.append(put(flaky, f"more {number}", b"more %d" % number))
            except TransferError as error:
                told.append((error.code, "connection reset" in error.message))
        found = flaky.read()
        assert {one.key for one in made} <= found.entries.keys()
        assert all(flaky.has(digest, size) for digest, size in found.blobs().items())
    assert set(told) == {("cache-failed", True)}
    assert len(made) > MOST_SEGMENTS


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (lambda: PermissionError("Access Denied"), "cache-denied"),
        (lambda: type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), "cache-denied"),
        (lambda: NotImplementedError("read only"), "cache-failed"),
        (lambda: OSError(28, "No space left on device"), "cache-failed"),
        (lambda: TimeoutError("too slow"), "cache-timeout"),
    ],
)
def test_what_no_second_try_makes_better_is_not_tried_again(
    flaky: ObjectCache, error: Callable[[], Exception], code: str
) -> None:
    with Flaky.failing(2.0, error), pytest.raises(TransferError) as caught:
        flaky.read()
    assert caught.value.code == code
    assert caught.value.hint
    assert Flaky.failed == 1


def test_it_is_not_tried_again_when_the_first_try_took_long(
    flaky: ObjectCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "_PATIENCE", 0.0)
    with Flaky.failing(2.0), pytest.raises(TransferError):
        flaky.read()
    assert Flaky.failed == 1


def test_what_does_not_answer_is_not_waited_for_forever(flaky: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(Flaky, "ls", lambda *_, **__: release.wait(60))
    monkeypatch.setattr(filesystem, "_SECONDS", 0.1)
    with pytest.raises(TransferError) as caught:
        flaky.read()
    release.set()
    assert caught.value.code == "cache-timeout"


def test_what_is_read_slowly_does_not_outlive_the_place(flaky: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that read segments are waited for when the process ends."""
    put(flaky, "step", b"layer")
    asked, release = threading.Event(), threading.Event()

    def wait(*_: object, **__: object) -> None:
        asked.set()
        release.wait(60)

    def read() -> None:
        with pytest.raises(InterruptedBuildError):
            flaky.read()
        stopped.append(True)

    stopped: list[bool] = []
    monkeypatch.setattr(Flaky, "cat_file", wait)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert asked.wait(30)
    flaky.close()
    reader.join(20)
    release.set()
    assert stopped


def test_a_stopped_build_does_not_wait_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    cancelled, release = threading.Event(), threading.Event()
    place = ObjectCache("flaky://stopped", {}, cancelled)

    def wait(*_: object, **__: object) -> None:
        cancelled.set()
        release.wait(60)

    monkeypatch.setattr(Flaky, "ls", wait)
    with pytest.raises(InterruptedBuildError):
        place.read()
    release.set()


def test_where_half_a_file_can_be_seen_it_has_another_name(folder: Path) -> None:
    from fsspec.implementations.dirfs import DirFileSystem

    class Served(DirFileSystem):  # type: ignore[misc]
        protocol = "served"

        def __init__(self, **options: Any) -> None:
            super().__init__(path=str(folder), fs=LocalFileSystem(), **options)

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path.removeprefix("served://")

    fsspec.register_implementation("served", Served, clobber=True)
    place = ObjectCache("served://here", {})
    made = put(place, "step", b"layer")
    assert place.read() == index(made)
    assert fetched(place, b"layer") == b"layer"
    seen: list[set[str]] = []
    content = b"another layer"

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            seen.append({path.name for path in (folder / "here" / "blobs" / "sha256").iterdir()})
            return super().read(size)

    place.send(digest_of(content), len(content), GZIP, lambda: Watched(content))
    assert seen
    assert all(digest_of(content)[7:] not in names for names in seen)
    assert place.has(digest_of(content), len(content))
    assert list((folder / "here" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "error", "code"),
    [
        ("bucket/folder", UsageError, "usage"),
        ("s3://", UsageError, "usage"),
        ("nosuch://bucket", UsageError, "usage"),
        ("simplecache::s3://bucket", UsageError, "usage"),
    ],
)
def test_what_is_no_place_is_refused(url: str, error: type[Exception], code: str) -> None:
    with pytest.raises(error) as caught:
        ObjectCache(url, {})
    assert caught.value.code == code  # type: ignore[attr-defined]


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.registry import known_implementations

    monkeypatch.setitem(known_implementations, "gs", {"class": "nosuchgcsfs.GCSFileSystem", "err": "install it"})
    with pytest.raises(HostError) as caught:
        ObjectCache("gs://bucket/folder", {})
    assert caught.value.code == "package-missing"
    assert caught.value.hint == "pip install nosuchgcsfs"


@pytest.mark.parametrize(
    ("url", "module", "hint"),
    [
        ("sftp://host/cache", "paramiko", "pip install paramiko"),
        ("ssh://host/cache", "paramiko", "pip install paramiko"),
        ("smb://host/share", "smbclient", "pip install smbprotocol"),
        ("git://host/cache", "pygit2", "install it where mbuild is"),
    ],
)
def test_a_package_that_is_missing_is_no_protocol(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, hint: str
) -> None:
    from fsspec.registry import _registry, known_implementations

    protocol = url.partition(":")[0]
    monkeypatch.delitem(_registry, protocol, raising=False)
    monkeypatch.delitem(sys.modules, known_implementations[protocol]["class"].rpartition(".")[0], raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HostError) as caught:
        ObjectCache(url, {})
    assert (caught.value.code, caught.value.hint) == ("package-missing", hint)
    assert hint.rpartition(" ")[2] in caught.value.message or module in caught.value.message


class Dead(MemoryFileSystem):  # type: ignore[misc]
    """One that logs in when it is made, to a server that is not there."""

    protocol = "dead"
    failure: Exception

    def __init__(self, **options: Any) -> None:
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "error", "code"),
    [
        (ConnectionRefusedError(111, "refused"), TransferError, "cache-failed"),
        (TimeoutError("no answer"), TransferError, "cache-timeout"),
        (type("ProtocolError", (Exception,), {})("banner"), TransferError, "cache-failed"),
        (TypeError("unexpected keyword argument"), UsageError, "usage"),
    ],
    ids=["refused", "timeout", "other", "options"],
)
def test_a_server_that_cannot_be_reached_is_no_mistake_of_the_user(
    failure: Exception, error: type[MbuildError], code: str
) -> None:
    fsspec.register_implementation("dead", Dead, clobber=True)
    Dead.failure = failure
    with pytest.raises(error) as caught:
        ObjectCache("dead://somebody:secret@x/y", {})
    assert caught.value.code == code
    assert caught.value.message.startswith("dead://x/y")


def test_options_reach_the_file_system() -> None:
    got: dict[str, Any] = {}

    class Asked(MemoryFileSystem):  # type: ignore[misc]
        protocol = "asked"

        def __init__(self, **options: Any) -> None:
            got.update(options)
            super().__init__()

    fsspec.register_implementation("asked", Asked, clobber=True)
    ObjectCache("asked://x", {"anon": "true", "client_kwargs.region_name": "eu", "name": "x"})
    assert got.items() >= {"anon": True, "client_kwargs": {"region_name": "eu"}, "name": "x"}.items()
    with pytest.raises(UsageError):
        ObjectCache("asked://x", {"a": "b", "a.c": "d"})


def test_libraries_are_imported_only_where_a_cache_is_used() -> None:
    code = "import sys, cache.carry.folder, cache.carry.objects, cache.carry.signing, cache.carry.artifact\n"
    code += "sys.exit(', '.join({'fsspec', 'cryptography', 'zstandard', 's3fs', 'asyncio'} & set(sys.modules)) or None)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_passwords_are_not_shown() -> None:
    place = ObjectCache("memory://user:secret@host/folder?token=secret", {})
    assert place.label == "memory://host/folder"
