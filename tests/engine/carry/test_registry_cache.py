"""A cache in a registry: what is sent, what is read, and what becomes of it when things go wrong."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from push_registry import Fault, PushRegistry, Request

from cache.carry.artifact import ARTIFACT_TYPE, RECORDS_TYPE, manifest_of, pack_index
from cache.carry.entry import CacheEntry, CarriedBlob, CarriedMount
from cache.carry.index import MEDIA_TYPE, MOST_LAYERS, MOST_STEPS, CacheIndex
from cache.results import Layer, StepResult
from engine.carry import registry as registry_cache
from engine.carry.inline import parse_inline
from engine.carry.registry import RegistryCache
from engine.carry.tagged import INDEX_ANNOTATION
from engine.images import mediatype
from engine.images.config import ImageConfiguration
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Index, Manifest
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.push import put_manifest
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.images.registry_config import Mirror, RegistryEntry
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError, UsageError
from machinefile.imageconfig import ImageConfig

QUICK = TransferPolicy(attempts=4, backoff=0.01, longest_wait=3, connect_timeout=3, read_timeout=2, small_deadline=3)
BIG = random.Random(6).randbytes(1 << 20)


def name_of(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def layer_of(data: bytes) -> Layer:
    return Layer(name_of(f"plain {data!r}"), digest_of(data), len(data), mediatype.OCI_LAYER_GZIP)


def index_of(*steps: tuple[str, bytes], used: int = 0) -> CacheIndex:
    """A cache with one entry a step, of one layer."""
    entries = [
        CacheEntry(name_of(name), name_of(f"content of {name}"), StepResult((layer_of(data),)), used)
        for name, data in steps
    ]
    return CacheIndex({entry.key: entry for entry in entries})


@pytest.fixture
def server() -> Iterator[PushRegistry]:
    running = PushRegistry()
    yield running
    running.stop()


@pytest.fixture
def new_client() -> Iterator[Callable[..., RegistryClient]]:
    made: list[RegistryClient] = []

    def new(**options: Any) -> RegistryClient:
        values: dict[str, Any] = {"policy": QUICK, "credentials": CredentialStore(()), **options}
        made.append(RegistryClient(**values))
        return made[-1]

    yield new
    for client in made:
        client.__exit__(None, None, None)


@pytest.fixture
def open_cache(new_client) -> Callable[..., RegistryCache]:
    def new(address: str, name: str = "app:cache", **options: Any) -> RegistryCache:
        client = options.pop("client", None) or new_client()
        options.setdefault("settle", 0)
        return RegistryCache(lambda: client, Reference.parse(f"{address}/{name}"), **options)

    return new


def fill(cache: RegistryCache, *steps: tuple[str, bytes]) -> CacheIndex:
    """Export some steps; gives what was to be added."""
    new = index_of(*steps)
    for _, data in steps:
        layer = layer_of(data)
        if not cache.has(layer.digest, layer.size):
            cache.send(layer.digest, layer.size, layer.media_type, lambda data=data: io.BytesIO(data))
    assert cache.publish(lambda there: there.merged(new))
    return new


def fetched(cache: RegistryCache, data: bytes) -> bytes:
    parts: list[bytes] = []
    cache.fetch(digest_of(data), len(data), parts.append)
    return b"".join(parts)


def code_of(error: type[Exception], action: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        action()
    return str(getattr(caught.value, "code", ""))


@pytest.mark.registry
def test_what_was_published_is_read_and_fetched(registry, open_cache) -> None:
    cache = open_cache(registry.address, "carry/app:cache")
    assert cache.label == f"registry {registry.address}/carry/app:cache"
    assert cache.read() == CacheIndex()
    one = fill(cache, ("one", BIG))
    assert open_cache(registry.address, "carry/app:cache").read() == one
    assert fetched(cache, BIG) == BIG
    two = fill(open_cache(registry.address, "carry/app:cache"), ("two", b"small"))
    assert cache.read() == one.merged(two)


@pytest.mark.registry
def test_skopeo_sees_an_artifact_with_every_blob(registry, open_cache) -> None:
    cache = open_cache(registry.address, "carry/shown:cache")
    index = fill(cache, ("one", BIG), ("two", b"small"))
    argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{registry.address}/carry/shown:cache"]
    environ = {**os.environ, "HOME": str(registry.folder)}
    shown = subprocess.run(argv, check=True, capture_output=True, timeout=60, env=environ).stdout
    manifest = json.loads(shown)
    assert manifest["artifactType"] == ARTIFACT_TYPE
    assert manifest["layers"][0]["mediaType"] == MEDIA_TYPE
    assert {layer["digest"]: layer["size"] for layer in manifest["layers"][1:]} == index.blobs()
    assert shown == manifest_of(index, pack_index(index))


@pytest.mark.registry
def test_those_who_publish_at_once_lose_nothing(registry, open_cache) -> None:
    caches = [open_cache(registry.address, "carry/busy:cache", settle=1) for _ in range(8)]
    together = threading.Barrier(len(caches))
    failures: list[BaseException] = []

    def publish(number: int) -> None:
        try:
            together.wait(30)
            fill(caches[number], (f"step {number}", b"of %d" % number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(len(caches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    assert set(caches[0].read().entries) == {name_of(f"step {number}") for number in range(len(caches))}


def test_a_second_export_sends_what_is_new_alone(server, open_cache) -> None:
    cache = open_cache(server.address)
    fill(cache, ("one", BIG))
    before = len(server.seen)
    fill(cache, ("two", b"small"))
    uploaded = [one for one in server.seen[before:] if one.method == "PUT" and "/blobs/uploads/" in one.path]
    assert len(uploaded) == 2  # the layer and the index
    assert not [one for one in server.seen[before:] if one.method == "PATCH"]


def test_what_changed_nothing_is_not_written(server, open_cache) -> None:
    cache = open_cache(server.address)
    new = fill(cache, ("one", b"data"))
    before = len(server.seen)
    assert not cache.publish(lambda there: there.merged(new))
    assert {one.method for one in server.seen[before:]} == {"GET"}
    assert not open_cache(server.address, "other:cache").publish(lambda there: there)
    assert ("other", "cache") not in server.manifests


def test_a_time_with_fractions_is_no_change(server, open_cache) -> None:
    cache = open_cache(server.address)
    new = fill(cache, ("one", b"data"))
    precise = {key: replace(one, result=replace(one.result, created=0.25)) for key, one in new.entries.items()}
    assert not cache.publish(lambda there: there.merged(CacheIndex(precise)))


def test_a_layer_of_the_image_is_mounted(server, open_cache) -> None:
    layer = layer_of(BIG)
    server.blobs["team/app", layer.digest] = BIG
    cache = open_cache(server.address, origins=lambda digest: ["app", "team/app"])
    assert not cache.has(layer.digest, layer.size)

    def missing() -> io.BytesIO:
        raise AssertionError("it was to be mounted")

    cache.send(layer.digest, layer.size, layer.media_type, missing)
    assert cache.has(layer.digest, layer.size)
    assert not server.asked("PATCH")


def test_what_another_writes_between_reading_and_writing_is_kept(server, open_cache) -> None:
    cache, other = open_cache(server.address), open_cache(server.address)
    fill(cache, ("first", b"1"))
    calls = []

    def change(there: CacheIndex) -> CacheIndex:
        calls.append(there)
        if len(calls) == 1:
            fill(other, ("theirs", b"2"))
        return there.merged(index_of(("ours", b"1")))

    assert cache.publish(change)
    assert set(cache.read().entries) == {name_of(name) for name in ("first", "theirs", "ours")}
    assert len(calls) == 2


def test_what_another_overwrites_is_written_again(server, open_cache) -> None:
    """Their writing was under way when we looked for the last time: it lands on ours."""
    cache = open_cache(server.address)
    fill(cache, ("first", b"1"))
    theirs = server.manifests["app", "cache"]
    overwritten = []

    def trouble(request: Request) -> Fault | None:
        put = [one for one in server.seen if one.method == "PUT" and "/manifests/" in one.path]
        if request.method == "GET" and "/manifests/" in request.path and len(put) == 2 and not overwritten:
            overwritten.append(server.manifests["app", "cache"])
            server.manifests["app", "cache"] = theirs
        return None

    server.trouble = trouble
    fill(cache, ("second", b"1"))
    assert overwritten
    assert server.manifests["app", "cache"] == overwritten[0]


def test_endless_contention_is_given_up(server, open_cache, monkeypatch) -> None:
    cache = open_cache(server.address)
    monkeypatch.setattr(cache, "_pause", lambda seconds: None)
    other = open_cache(server.address)
    count = iter(range(100))

    def change(there: CacheIndex) -> CacheIndex:
        fill(other, (f"theirs {next(count)}", b"1"))
        return there.merged(index_of(("ours", b"1")))

    assert code_of(TransferError, lambda: cache.publish(change)) == "cache-contended"


def test_a_stopped_build_publishes_no_more(server, open_cache) -> None:
    stopped = threading.Event()
    cache = open_cache(server.address, cancelled=stopped)

    def change(there: CacheIndex) -> CacheIndex:
        stopped.set()
        return there.merged(index_of(("one", b"1")))

    with pytest.raises(InterruptedBuildError):
        cache.publish(change)
    assert not server.manifests


def test_a_registry_that_fails_now_and_then(server, open_cache, new_client) -> None:
    failed: set[tuple[str, str]] = set()

    def trouble(request: Request) -> Fault | None:
        """Every kind of request goes wrong at first."""
        asked = (request.method, request.path.rstrip("0123456789"))
        known = asked in failed
        failed.add(asked)
        return None if known else Fault(503)

    server.trouble = trouble
    cache = open_cache(server.address, client=new_client(policy=replace(QUICK, attempts=6)))
    one = fill(cache, ("one", BIG))
    assert cache.read() == one
    assert fetched(cache, BIG) == BIG
    assert {method for method, _ in failed} == {"GET", "HEAD", "POST", "PATCH", "PUT"}


def test_an_upload_that_is_cut_goes_on(server, open_cache) -> None:
    cut = []

    def trouble(request: Request) -> Fault | None:
        if request.method == "PATCH" and not cut:
            cut.append(request)
            return Fault(after=1 << 19)
        return None

    server.trouble = trouble
    cache = open_cache(server.address)
    fill(cache, ("one", BIG))
    assert cut
    assert fetched(cache, BIG) == BIG


def test_a_registry_that_refuses_a_login_says_so(server, open_cache) -> None:
    server.trouble = lambda request: Fault(401, {"WWW-Authenticate": 'Basic realm="x"'})
    cache = open_cache(server.address)
    assert code_of(TransferError, cache.read) == "registry-unauthorized"
    assert code_of(TransferError, lambda: cache.publish(lambda there: index_of(("a", b"")))) == "registry-unauthorized"


@pytest.mark.parametrize(
    ("served", "code"),
    [(BIG[:-1], "blob-truncated"), (BIG + b"!", "blob-too-long"), (BIG[:-1] + b"!", "digest-mismatch")],
)
def test_wrong_bytes_are_not_believed(server, open_cache, served, code) -> None:
    server.blobs["app", digest_of(BIG)] = served
    parts: list[bytes] = []
    cache = open_cache(server.address)
    assert code_of(UntrustedDataError, lambda: cache.fetch(digest_of(BIG), len(BIG), parts.append)) == code
    assert sum(map(len, parts)) <= len(BIG)


def test_a_blob_of_another_size_is_not_there(server, open_cache) -> None:
    server.blobs["app", digest_of(BIG)] = BIG[:-1]
    assert not open_cache(server.address).has(digest_of(BIG), len(BIG))


def test_a_lost_index_is_an_error_to_read_and_begun_anew(server, open_cache) -> None:
    cache = open_cache(server.address)
    fill(cache, ("one", b"1"))
    packed = json.loads(server.manifests["app", "cache"])["layers"][0]["digest"]
    del server.blobs["app", packed]
    assert code_of(TransferError, cache.read) == "blob-not-found"
    two = fill(cache, ("two", b"2"))
    assert cache.read() == two


def test_entries_whose_blobs_the_registry_lost_are_left_out(server, open_cache) -> None:
    cache = open_cache(server.address)
    fill(cache, ("one", b"1"), ("two", b"2"))
    del server.blobs["app", digest_of(b"1")]
    fill(cache, ("three", b"3"))
    assert set(cache.read().entries) == {name_of("two"), name_of("three")}


def test_a_registry_for_images_alone_gets_an_image(server, open_cache) -> None:
    def trouble(request: Request) -> Fault | None:
        return Fault(400) if request.method == "PUT" and "/manifests/" in request.path and plain() is None else None

    def plain() -> bytes | None:
        """The configuration of an image, if one was sent: artifacts have an empty one."""
        known = (data for data in list(server.blobs.values()) if b'"rootfs"' in data)
        return next(known, None)

    server.trouble = trouble
    cache = open_cache(server.address)
    one = fill(cache, ("one", BIG))
    manifest = json.loads(server.manifests["app", "cache"])
    assert "artifactType" not in manifest
    assert manifest["config"]["mediaType"] == mediatype.OCI_CONFIG
    config = json.loads(plain() or b"")
    assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"]) == 2
    assert config["rootfs"]["diff_ids"][1] == layer_of(BIG).diff_id
    assert cache.read() == one
    refusals = len(server.asked("PUT", "/manifests/"))
    two = fill(cache, ("two", b"2"))
    assert cache.read() == one.merged(two)
    assert len(server.asked("PUT", "/manifests/")) == refusals + 1  # it is known now


def test_a_registry_that_takes_neither_says_why(server, open_cache) -> None:
    def trouble(request: Request) -> Fault | None:
        refused = request.method == "PUT" and "/manifests/" in request.path
        return Fault(400, body=b'{"errors": [{"message": "tags must not change"}]}') if refused else None

    server.trouble = trouble
    cache = open_cache(server.address)
    with pytest.raises(TransferError, match="tags must not change") as caught:
        fill(cache, ("one", b"1"))
    assert caught.value.code == "push-refused"


def test_a_cache_is_not_written_under_a_digest(server, open_cache) -> None:
    cache = open_cache(server.address, f"app@{name_of('x')}")
    assert code_of(UsageError, lambda: cache.publish(lambda there: there)) == "push-digest"


def test_packs_and_mounts_are_listed_too(server, open_cache) -> None:
    cache = open_cache(server.address)
    pack, disk = b"records", b"a disk"
    for data in (b"1", pack, disk):
        cache.send(digest_of(data), len(data), RECORDS_TYPE, lambda data=data: io.BytesIO(data))
    entries = {key: replace(entry, records=digest_of(pack)) for key, entry in index_of(("one", b"1")).entries.items()}
    mount = CarriedMount("ab" * 32, "cache", digest_of(disk), len(disk), 5)
    index = CacheIndex(entries, {mount.identity: mount}, {digest_of(pack): CarriedBlob(digest_of(pack), len(pack))})
    assert cache.publish(lambda there: there.merged(index))
    assert cache.read() == index
    # What needs a blob that is lost goes, whatever it is.
    del server.blobs["app", digest_of(disk)]
    del server.blobs["app", digest_of(pack)]
    fill(cache, ("two", b"2"))
    assert cache.read() == index_of(("two", b"2"))


def test_a_full_cache_keeps_below_what_registries_take() -> None:
    layers = tuple(Layer(name_of(f"d{n}"), name_of(f"b{n}"), 1 << 40, mediatype.OCI_LAYER_GZIP) for n in range(10_000))
    assert len(layers) == MOST_LAYERS
    entries = {name_of("x"): CacheEntry(name_of("x"), name_of("y"), StepResult(layers))}
    index = CacheIndex(entries)
    assert len(manifest_of(index, pack_index(index))) < 4 << 20


def test_a_cache_that_is_too_large_is_refused(server, open_cache) -> None:
    packs = {name_of(str(n)): CarriedBlob(name_of(str(n)), 1) for n in range(30_000)}
    code = code_of(TransferError, lambda: open_cache(server.address).publish(lambda there: CacheIndex(packs=packs)))
    assert code == "cache-too-large"


def put(server: PushRegistry, client: RegistryClient, data: bytes, kind: str, name: str = "app:cache") -> None:
    reference = Reference.parse(f"{server.address}/{name}")
    put_manifest(client, reference, data, kind, reference.target)


def image_of(server: PushRegistry, inline: str = "", layers: int = 1, **options: Any) -> Manifest:
    blobs = [b"layer %d" % number for number in range(layers)]
    config = ImageConfiguration(
        ImageConfig(),
        "amd64",
        "linux",
        diff_ids=tuple(layer_of(data).diff_id for data in blobs),
        inline_cache=inline,
        **options,
    ).to_json()
    for data in (config, *blobs):
        server.blobs["app", digest_of(data)] = data
    listed = tuple(Descriptor(mediatype.OCI_LAYER_GZIP, digest_of(data), len(data)) for data in blobs)
    return Manifest(Descriptor(mediatype.OCI_CONFIG, digest_of(config), len(config)), listed)


def test_an_image_without_a_cache_is_named_and_left_alone(server, open_cache, new_client) -> None:
    data = image_of(server).to_json()
    put(server, new_client(), data, mediatype.OCI_MANIFEST)
    cache = open_cache(server.address)
    with pytest.raises(UntrustedDataError, match="an image without a cache") as caught:
        cache.read()
    assert caught.value.code == "not-a-cache"
    assert code_of(UntrustedDataError, lambda: fill(cache, ("one", b"1"))) == "not-a-cache"
    assert server.manifests["app", "cache"] == data


def buildkit(kind: str, digest: str) -> tuple[bytes, str]:
    pointer = {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": digest, "size": 2}
    if kind == "index":
        value: dict[str, object] = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": [pointer]}
        return json.dumps(value).encode(), mediatype.OCI_INDEX
    value = {"schemaVersion": 2, "mediaType": mediatype.OCI_MANIFEST, "config": pointer, "layers": []}
    return json.dumps(value).encode(), mediatype.OCI_MANIFEST


@pytest.mark.parametrize("kind", ["index", "manifest"])
def test_a_cache_of_buildkit_is_named(server, open_cache, kind) -> None:
    data, media_type = buildkit(kind, digest_of(b"{}"))
    server.manifests["app", "cache"] = data
    server.types[digest_of(data)] = media_type
    cache = open_cache(server.address)
    with pytest.raises(UntrustedDataError, match="BuildKit") as caught:
        cache.read()
    assert caught.value.code == "not-a-cache"
    assert code_of(UntrustedDataError, lambda: fill(cache, ("one", b"1"))) == "not-a-cache"


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"artifactType": 3}',
    b'{"artifactType": "application/vnd.example"}',
    b'{"artifactType": "application/vnd.mbuild.cache.v1"}',
    b'{"artifactType": "application/vnd.mbuild.cache.v2", "layers": []}',
    b'{"annotations": {"%s": "sha256:%s"}, "layers": []}' % (INDEX_ANNOTATION.encode(), b"0" * 64),
    b'{"annotations": {"%s": "x"}, "layers": [{"digest": "../../etc", "size": 1}]}' % INDEX_ANNOTATION.encode(),
    b'{"manifests": [3]}',
    b'{"manifests": [], "config": {}, "layers": []}',
    b'{"config": {"mediaType": "application/vnd.oci.image.config.v1+json"}}',
    b'{"config": {"mediaType": "%s", "digest": "sha256:%s", "size": -1}}' % (mediatype.OCI_CONFIG.encode(), b"0" * 64),
]


@pytest.mark.parametrize("data", HOSTILE)
def test_a_hostile_manifest_is_refused(server, open_cache, data) -> None:
    server.manifests["app", "cache"] = data or b" "
    server.types[digest_of(data or b" ")] = mediatype.OCI_MANIFEST
    cache = open_cache(server.address)
    with pytest.raises(UntrustedDataError):
        cache.read()


def test_an_index_that_grows_without_end_is_refused(server, open_cache, new_client) -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=1).compress(b" " * (65 << 20))
    serve_index(server, bomb)
    assert code_of(UntrustedDataError, open_cache(server.address).read) == "cache-invalid"


def serve_index(server: PushRegistry, packed: bytes) -> None:
    manifest = manifest_of(CacheIndex(), packed)
    server.blobs["app", digest_of(packed)] = packed
    server.manifests["app", "cache"] = manifest
    server.types[digest_of(manifest)] = mediatype.OCI_MANIFEST


@pytest.mark.parametrize("packed", [b"", b"not zstd", b"\x28\xb5\x2f\xfd" + b"\xff" * 40])
def test_a_damaged_index_is_refused_and_replaced(server, open_cache, packed) -> None:
    serve_index(server, packed or b"\0")
    cache = open_cache(server.address)
    assert code_of(UntrustedDataError, cache.read) == "cache-invalid"
    assert fill(cache, ("one", b"1")) == cache.read()


def test_a_cache_of_a_later_version_is_not_overwritten(server, open_cache) -> None:
    import zstandard

    serve_index(server, zstandard.ZstdCompressor().compress(b'{"version": 99}'))
    cache = open_cache(server.address)
    assert code_of(UntrustedDataError, cache.read) == "cache-version"
    assert code_of(UntrustedDataError, lambda: fill(cache, ("one", b"1"))) == "cache-version"


def test_mirrors_are_not_asked(server, open_cache, new_client) -> None:
    fill(open_cache(server.address), ("one", BIG))
    behind = PushRegistry()
    try:
        mirrored = RegistryEntry(server.address, mirrors=(Mirror(behind.address, ""),))
        cache = open_cache(server.address, client=new_client(settings=RegistrySettings(entries=(mirrored,))))
        assert set(cache.read().entries) == {name_of("one")}
        assert fetched(cache, BIG) == BIG
        assert not behind.seen
    finally:
        behind.stop()


def inline_text(*steps: list[object], blobs: tuple[str, ...] = (), packing: str = "gzip-4-x") -> str:
    return json.dumps({"steps": steps, "packing": packing, "blobs": blobs})


def test_what_an_image_says_of_itself_is_read(server, open_cache, new_client) -> None:
    layers = [layer_of(b"layer %d" % number) for number in range(3)]
    text = inline_text(
        [name_of("a"), name_of("a content"), 1],
        [name_of("b"), "", None],
        [name_of("c"), name_of("c content"), 2],
        blobs=(layers[2].digest,),
    )
    put(server, new_client(), image_of(server, text, 3).to_json(), mediatype.OCI_MANIFEST)
    index = open_cache(server.address).read()
    assert index.entries == {
        name_of("a"): CacheEntry(name_of("a"), name_of("a content"), StepResult((layers[1],))),
        name_of("b"): CacheEntry(name_of("b"), name_of("b"), StepResult((layers[1], None))),
        name_of("c"): CacheEntry(name_of("c"), name_of("c content"), StepResult((layers[1], None, layers[2]))),
    }
    assert index.packings == {layers[2].digest: "gzip-4-x"}


def test_all_images_of_an_index_are_read(server, open_cache, new_client) -> None:
    client = new_client()
    lines = []
    for name, architecture in (("a", "amd64"), ("b", "arm64")):
        data = image_of(server, inline_text([name_of(name), "", 0]), os_version=architecture).to_json()
        put(server, client, data, mediatype.OCI_MANIFEST, f"app:{architecture}")
        lines.append(Descriptor(mediatype.OCI_MANIFEST, digest_of(data), len(data)))
        server.manifests["app", digest_of(data)] = data
    without = image_of(server).to_json()
    server.manifests["app", digest_of(without)] = without
    server.types[digest_of(without)] = mediatype.OCI_MANIFEST
    lines.append(Descriptor(mediatype.OCI_MANIFEST, digest_of(without), len(without)))
    put(server, client, Index(tuple(lines)).to_json(), mediatype.OCI_INDEX)
    assert set(open_cache(server.address).read().entries) == {name_of("a"), name_of("b")}


def test_images_with_very_many_steps_take_no_more_than_an_index(server, open_cache, new_client, monkeypatch) -> None:
    """A result has the places of all steps below it, too."""
    read: list[int] = []
    most: list[int] = []
    merged = CacheIndex.merged

    def places(index: CacheIndex) -> int:
        return sum(len(entry.result.steps) for entry in index.entries.values())

    def parsing(*args: Any) -> CacheIndex:
        index = parse_inline(*args)
        read.append(places(index))
        return index

    def merging(old: CacheIndex, new: CacheIndex) -> CacheIndex:
        most.append(sum(read) + places(old))
        read.remove(places(new))
        return merged(old, new)

    monkeypatch.setattr(registry_cache, "parse_inline", parsing)
    monkeypatch.setattr(CacheIndex, "merged", merging)
    client = new_client()
    lines = []
    for number in range(7):
        text = inline_text(*([name_of(f"{number} {step}"), "", None] for step in range(2000)))
        data = image_of(server, text).to_json()
        server.manifests["app", digest_of(data)] = data
        server.types[digest_of(data)] = mediatype.OCI_MANIFEST
        lines.append(Descriptor(mediatype.OCI_MANIFEST, digest_of(data), len(data)))
    put(server, client, Index(tuple(lines)).to_json(), mediatype.OCI_INDEX)
    index = open_cache(server.address).read()
    assert places(index) <= MOST_STEPS
    assert max(most) <= (registry_cache.PARALLEL + 1) * MOST_STEPS
    alone = parse_inline(text, [], "the image")
    assert MOST_STEPS - 2000 <= places(alone) <= MOST_STEPS
    assert name_of("6 1999") in alone.entries, "the last step is worth most"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "[" * 100_000,
        inline_text(["x", "", 0]),
        inline_text([name_of("a"), "", 5]),
        inline_text([name_of("a"), "", -1]),
        inline_text([name_of("a"), "", 0], [name_of("b"), "", 0]),
        inline_text([name_of("a"), "x", 0]),
        inline_text([name_of("a"), "", 0, 1]),
        inline_text(*([[name_of("a"), "", None]] * 2001)),
        inline_text([name_of("a"), "", 0], packing="x" * 1000),
    ],
)
def test_an_image_that_talks_nonsense_of_itself_is_refused(server, open_cache, new_client, text) -> None:
    put(server, new_client(), image_of(server, text).to_json(), mediatype.OCI_MANIFEST)
    assert code_of(UntrustedDataError, open_cache(server.address).read) == "cache-invalid"


def test_a_configuration_that_is_too_long_is_not_fetched(server, open_cache, new_client) -> None:
    image = image_of(server)
    data = replace(image, config=replace(image.config, size=9 << 20)).to_json()
    put(server, new_client(), data, mediatype.OCI_MANIFEST)
    assert code_of(UntrustedDataError, open_cache(server.address).read) == "blob-too-large"
    assert not server.asked("GET", image.config.digest)
