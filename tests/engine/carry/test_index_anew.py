"""Builds whose cache's index was lost or spoilt: it is written anew, unless somebody else may need what is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from push_registry import PushRegistry

from cache.carry.artifact import MANIFEST_TYPE, pack_index
from cache.carry.folder import FolderCache
from cache.carry.index import CacheIndex
from cache.carry.objects import ObjectCache
from cache.carry.place import CachePlace
from engine.carry.export import OpenTarget
from engine.carry.registry import RegistryCache
from engine.carry.spec import CacheMode, CacheTarget, CacheType
from engine.events import WarningRaised
from engine.images.credentials import CredentialStore
from engine.images.digest import digest_of
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.report import BuildReport

if TYPE_CHECKING:
    from conftest import Workshop

TEXT = "FROM base\nRUN write a 1\nRUN write b 2\n"


class Kept:
    """A place, and what can happen to what is in it."""

    def __init__(self, open_place: Callable[[], CachePlace], spoil: Callable[[bytes | None], None]) -> None:
        self.open = open_place
        self.spoil = spoil
        """Put another index there, or none."""


def folder(path: Path) -> Kept:
    def spoil(index: bytes | None) -> None:
        listed = json.loads((path / "index.json").read_text())["manifests"][0]["digest"]
        manifest = json.loads((path / "blobs" / "sha256" / listed[7:]).read_text())
        blob = path / "blobs" / "sha256" / manifest["layers"][0]["digest"][7:]
        blob.unlink()
        if index is not None:
            blob.write_bytes(index)

    return Kept(lambda: FolderCache(path), spoil)


def objects(path: Path) -> Kept:
    def spoil(index: bytes | None) -> None:
        (segment,) = (path / "index").iterdir()
        if index is None:
            segment.unlink()
        else:
            segment.write_bytes(index)

    return Kept(lambda: ObjectCache(f"file://{path}", {}), spoil)


def registry(server: PushRegistry, client: RegistryClient) -> Kept:
    def spoil(index: bytes | None) -> None:
        manifest = json.loads(server.manifests["app", "cache"])
        place = "app", manifest["layers"][0]["digest"]
        del server.blobs[place]
        if index is not None:
            manifest["layers"][0].update(digest=digest_of(index), size=len(index))
            server.blobs["app", digest_of(index)] = index
            data = json.dumps(manifest).encode()
            server.manifests["app", "cache"] = data
            server.types[digest_of(data)] = MANIFEST_TYPE

    reference = Reference.parse(f"{server.address}/app:cache")
    return Kept(lambda: RegistryCache(lambda: client, reference, settle=0), spoil)


@pytest.fixture(params=["folder", "file", "registry"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    match request.param:
        case "folder":
            yield folder(tmp_path / "cache")
        case "file":
            yield objects(tmp_path / "cache")
        case _:
            server = PushRegistry()
            try:
                with RegistryClient(credentials=CredentialStore(())) as client:
                    yield registry(server, client)
            finally:
                server.stop()


def build(workshop: Workshop, kept: Kept) -> BuildReport:
    workshop.events.clear()
    target = CacheTarget(CacheType.FSSPEC, "memory://here", mode=CacheMode.MAX)
    driver = workshop.driver
    driver.open_target = lambda target: OpenTarget(target, kept.open())
    return driver.build(replace(workshop.request(TEXT), cache_to=(target,)))


def warnings(workshop: Workshop) -> list[str]:
    return [event.message for event in workshop.events if isinstance(event, WarningRaised)]


@pytest.mark.parametrize("index", [None, b"spoilt"], ids=["lost", "spoilt"])
def test_an_index_that_is_lost_or_spoilt_is_written_anew(workshop: Workshop, kept: Kept, index: bytes | None) -> None:
    build(workshop, kept)
    before = kept.open().read()
    assert len(before.entries) == 2
    kept.spoil(index)
    report = build(workshop, kept)
    assert report.exports is not None
    assert report.exports.failure is None
    assert kept.open().read().entries == before.entries
    # Of an object store's index nobody can tell that there was one.
    gone = index is None and isinstance(kept.open(), ObjectCache)
    assert ["is written anew" in message for message in warnings(workshop)] == [True] * (not gone)
    build(workshop, kept)
    assert warnings(workshop) == []


@pytest.mark.parametrize("kept", ["file", "registry"], indirect=True)
def test_another_versions_index_is_not_written_over(workshop: Workshop, kept: Kept) -> None:
    import zstandard

    build(workshop, kept)
    document = zstandard.decompress(pack_index(CacheIndex())).replace(b'"version":1', b'"version":9')
    other = zstandard.compress(document)
    kept.spoil(other)
    report = build(workshop, kept)
    assert report.exports is not None
    assert report.exports.failure is not None
    assert report.exports.failure.code == "cache-version"
