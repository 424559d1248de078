"""A cache in a folder: who shares it, what stays in it, what is wrong with it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from carry_support import digest_of, entry, fetched, index, put, send

from cache.carry.artifact import MAX_MANIFEST_BYTES
from cache.carry.folder import KEPT_SECONDS, FolderCache
from cache.carry.index import CacheIndex
from machinefile.errors import HostError, TransferError, UntrustedDataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def blobs(folder: Path) -> set[str]:
    return {f"sha256:{name}" for name in os.listdir(folder / "blobs" / "sha256")}


def blob(folder: Path, content: bytes) -> Path:
    return folder / "blobs" / "sha256" / digest_of(content)[7:]


def manifest_of(folder: Path) -> Path:
    digest = json.loads((folder / "index.json").read_text())["manifests"][0]["digest"]
    return folder / "blobs" / "sha256" / str(digest[7:])


def age(folder: Path, seconds: float) -> None:
    """As if all that is in it had been written earlier."""
    for path in (folder / "blobs" / "sha256").iterdir():
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def change_index(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads((folder / "index.json").read_text())
    change(document)
    (folder / "index.json").write_text(json.dumps(document))


def test_other_tools_move_it(folder: Path, tmp_path: Path) -> None:
    made = put(FolderCache(folder), "step", b"layer")
    argv = ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{folder}:latest", f"oci:{tmp_path}/other:v1"]
    subprocess.run(argv, check=True, timeout=60)
    other = FolderCache(tmp_path / "other", "v1")
    assert other.read() == index(made)
    assert fetched(other, b"layer") == b"layer"
    assert FolderCache(tmp_path / "other").read() == CacheIndex()


def test_tags_are_caches_of_their_own(folder: Path) -> None:
    one = put(FolderCache(folder, "one"), "step", b"first")
    two = put(FolderCache(folder, "two"), "step", b"second")
    assert FolderCache(folder, "one").read() == index(one)
    assert FolderCache(folder, "two").read() == index(two)
    assert FolderCache(folder).read() == CacheIndex()


def test_the_only_cache_is_read_although_nobody_gave_it_a_tag(folder: Path) -> None:
    one = put(FolderCache(folder), "one", b"first")
    change_index(folder, lambda document: document["manifests"][0].pop("annotations"))  # type: ignore[index]
    assert FolderCache(folder).read() == index(one)
    assert FolderCache(folder, "latest").read() == CacheIndex()
    two = put(FolderCache(folder), "two", b"second")
    assert FolderCache(folder).read() == index(one, two)
    assert len(json.loads((folder / "index.json").read_text())["manifests"]) == 1


def test_what_nobody_needs_goes_after_an_hour(folder: Path) -> None:
    put(FolderCache(folder), "old", b"old layer")
    before = blobs(folder)
    age(folder, 10 * KEPT_SECONDS)
    put(FolderCache(folder), "new", b"new layer")
    FolderCache(folder).publish(lambda old: old.only(lambda one: one == entry("new", b"new layer")))
    # It is the time since it was last needed that counts: somebody may have read the index a moment ago.
    assert before <= blobs(folder)
    assert fetched(FolderCache(folder), b"old layer") == b"old layer"
    age(folder, KEPT_SECONDS + 60)
    put(FolderCache(folder), "newer", b"newer layer")
    assert not blob(folder, b"old layer").exists()
    assert blob(folder, b"new layer").exists()
    # The manifest, the index and the config of now; of the last generation the same.
    assert len(blobs(folder)) == 5 + 2


def test_the_hour_passes_for_every_generation_of_indexes(folder: Path) -> None:
    for number in range(5):
        put(FolderCache(folder), f"step {number}", b"layer %d" % number)
        age(folder, KEPT_SECONDS + 60)
    assert len(blobs(folder)) <= 5 + 3 + 2


def test_what_others_keep_in_the_layout_stays(folder: Path) -> None:
    other = put(FolderCache(folder, "other"), "other", b"other layer")
    put(FolderCache(folder), "old", b"old layer")
    for number in range(2):
        age(folder, KEPT_SECONDS + 60)
        made = put(FolderCache(folder), "old", b"new layer %d" % number)
    assert not blob(folder, b"old layer").exists()
    assert FolderCache(folder, "other").read() == index(other)
    assert fetched(FolderCache(folder, "other"), b"other layer") == b"other layer"
    assert FolderCache(folder).read() == index(made)


def test_nothing_goes_where_it_cannot_be_told_what_is_needed(folder: Path) -> None:
    put(FolderCache(folder), "old", b"old layer")
    strange = {"digest": digest_of(b"missing"), "annotations": {"org.opencontainers.image.ref.name": "strange"}}
    change_index(folder, lambda document: document["manifests"].append(strange))  # type: ignore[attr-defined]
    for number in range(3):
        age(folder, KEPT_SECONDS + 60)
        put(FolderCache(folder), "old", b"new layer %d" % number)
    assert blob(folder, b"old layer").exists()


def test_who_asked_for_a_blob_keeps_it(folder: Path) -> None:
    put(FolderCache(folder), "one", b"first")
    send(FolderCache(folder), b"not needed yet")
    age(folder, KEPT_SECONDS + 60)
    exporter = FolderCache(folder)
    assert exporter.has(digest_of(b"not needed yet"), 14)
    put(FolderCache(folder), "two", b"second")
    assert put(exporter, "three", b"not needed yet").key in FolderCache(folder).read().entries
    assert blob(folder, b"not needed yet").exists()


def test_what_killed_processes_left_goes(folder: Path) -> None:
    put(FolderCache(folder), "one", b"first")
    for name in ("old.tmp", "new.tmp"):
        (folder / ".mbuild" / name).write_bytes(b"half")
    then = time.time() - KEPT_SECONDS - 60
    os.utime(folder / ".mbuild" / "old.tmp", (then, then))
    put(FolderCache(folder), "two", b"second")
    assert [path.name for path in (folder / ".mbuild").glob("*.tmp")] == ["new.tmp"]


def publish_steps(folder: Path, number: int) -> None:
    for step in range(5):
        put(FolderCache(folder), f"step {number} {step}", b"layer %d %d" % (number, step))


def test_processes_lose_nothing_of_one_another(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=publish_steps, args=(folder, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(FolderCache(folder).read().entries) == 20


def test_a_reader_begins_again_where_the_index_was_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(FolderCache(folder), "old", b"old layer")
    reader = FolderCache(folder)
    listed = reader._listed
    late: list[object] = []

    def replaced_meanwhile() -> object:
        found = listed()
        if not late:
            late.append(put(FolderCache(folder), "new", b"new layer"))
            for digest in found.digests():
                (folder / "blobs" / "sha256" / digest[7:]).unlink()
        return found

    monkeypatch.setattr(reader, "_listed", replaced_meanwhile)
    assert len(reader.read().entries) == 2


@pytest.mark.parametrize("which", ["manifest", "index"])
@pytest.mark.parametrize("how", ["cut", "flipped", "missing", "pipe"])
def test_a_damaged_index_is_told_and_written_anew(folder: Path, which: str, how: str) -> None:
    put(FolderCache(folder), "old", b"old layer")
    manifest = (
        folder / "blobs" / "sha256" / json.loads((folder / "index.json").read_text())["manifests"][0]["digest"][7:]
    )
    path = manifest
    if which == "index":
        path = manifest.with_name(json.loads(manifest.read_text())["layers"][0]["digest"][7:])
    data = path.read_bytes()
    path.unlink()
    match how:
        case "cut":
            path.write_bytes(data[:-1])
        case "flipped":
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "pipe":
            os.mkfifo(path)
    with pytest.raises(TransferError) as caught:
        FolderCache(folder).read()
    assert caught.value.code in ("cache-damaged", "cache-blob-missing")
    made = put(FolderCache(folder), "new", b"new layer")
    assert FolderCache(folder).read() == index(made)


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[" * 100_000, b'{"manifests":[{"digest":"x"}]}', b" " * (MAX_MANIFEST_BYTES + 1)],
    ids=range(5),
)
def test_another_index_json_is_refused(folder: Path, content: bytes) -> None:
    folder.mkdir()
    (folder / "index.json").write_bytes(content)
    for use in (FolderCache(folder).read, lambda: FolderCache(folder).publish(lambda old: old)):
        with pytest.raises(UntrustedDataError) as caught:
            use()
        assert caught.value.code == "cache-invalid"
    assert (folder / "index.json").read_bytes() == content


def test_an_image_under_the_tag_is_not_replaced(folder: Path) -> None:
    put(FolderCache(folder), "old", b"old layer")
    image = manifest_of(folder).read_bytes().replace(b"vnd.mbuild.cache.v1", b"vnd.somebody.else")
    blob(folder, image).write_bytes(image)
    change_index(folder, lambda document: document["manifests"][0].update(digest=digest_of(image)))  # type: ignore[index]
    with pytest.raises(UntrustedDataError) as caught:
        FolderCache(folder).publish(lambda old: CacheIndex())
    assert caught.value.code == "cache-invalid"
    assert digest_of(image) in (folder / "index.json").read_text()


def test_a_blob_of_the_wrong_size_is_sent_again(folder: Path) -> None:
    put(FolderCache(folder), "step", b"layer")
    blob(folder, b"layer").write_bytes(b"lay")
    with pytest.raises(UntrustedDataError) as caught:
        fetched(FolderCache(folder), b"layer")
    assert caught.value.code == "cache-damaged"
    assert send(FolderCache(folder), b"layer")
    assert fetched(FolderCache(folder), b"layer") == b"layer"


def test_entries_whose_blobs_are_lost_go_with_the_next_publication(folder: Path) -> None:
    put(FolderCache(folder), "lost", b"lost layer")
    blob(folder, b"lost layer").unlink()
    assert FolderCache(folder).publish(lambda old: old)
    assert FolderCache(folder).read() == CacheIndex()


def test_a_folder_with_something_else_in_it_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    assert FolderCache(folder).read() == CacheIndex()
    with pytest.raises(HostError) as caught:
        put(FolderCache(folder), "step", b"layer")
    assert caught.value.code == "cache-folder"
    assert "thesis.txt" in caught.value.message
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for use in (lambda: FolderCache(tmp_path / "file").read(), lambda: send(FolderCache(tmp_path / "file"), b"layer")):
        with pytest.raises(HostError) as caught:
            use()
        assert caught.value.code == "cache-folder"


@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_nothing_half(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    made = put(FolderCache(folder), "step", b"layer")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        if place == "write":
            patched.setattr("cache.carry.durable.memoryview", full, raising=False)
        else:
            patched.setattr(os, place, full)
        with pytest.raises(HostError) as caught:
            send(FolderCache(folder), b"another layer")
        assert caught.value.code == "cache-folder"
        assert "No space left" in caught.value.message
        with pytest.raises(HostError):
            FolderCache(folder).publish(lambda old: CacheIndex())
    assert not list((folder / ".mbuild").glob("*.tmp"))
    assert not FolderCache(folder).has(digest_of(b"another layer"), 13)
    assert FolderCache(folder).read() == index(made)
