"""Images that are a cache of their own steps."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cache.carry.index import CacheIndex
from cache.index import Kind
from engine.carry.inline import parse_inline
from engine.carry.registry import RegistryCache
from engine.images import mediatype
from engine.images.credentials import CredentialStore
from engine.images.digest import digest_of
from engine.images.image import LayerDescriptor, resolved
from engine.images.push import push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.output.compress import DEFAULT, Compression, Compressor
from machinefile.platform import Platform

TEXT = """FROM base
RUN write a one
ENV X=1
WORKDIR /work
RUN nothing
COPY file /file
"""


@pytest.fixture
def build(workshop: Any) -> Any:
    def run(text: str = TEXT, **options: Any) -> str:
        workshop.write("file", "content")
        request = replace(workshop.request(text, **options), inline_cache=True)
        digest: str = workshop.driver.build(request).digest
        return digest

    return run


def inside(workshop: Any, digest: str) -> CacheIndex:
    manifest, configuration = workshop.image(digest)
    layers = [
        LayerDescriptor(descriptor, diff_id)
        for descriptor, diff_id in zip(manifest.layers, configuration.diff_ids, strict=True)
    ]
    return parse_inline(configuration.inline_cache, layers, "the image")


def test_the_image_tells_what_the_store_knows(workshop, build) -> None:
    digest = build()
    manifest, configuration = workshop.image(digest)
    index = inside(workshop, digest)
    plan = workshop.plan(TEXT)
    planned = list(plan.counted())
    assert set(index.entries) == {one.key for one in planned}
    for one in planned:
        entry = index.entries[one.key]
        assert one.result is not None
        told = [layer and layer.diff_id for layer in entry.result.steps]
        assert told == [layer and layer.diff_id for layer in one.result.steps]
        found = workshop.store.index.get(Kind.CONTENT, entry.content)
        assert found is not None
        assert entry.content != entry.key
        assert entry.result.created == 0
    whole = index.entries[plan.step(plan.graph.result).key].result
    own = manifest.layers[1:]
    assert [(layer.digest, layer.size, layer.media_type) for layer in whole.layers] == [
        (blob.digest, blob.size, blob.media_type) for blob in own
    ]
    assert None in whole.steps
    assert index.packings == {blob.digest: DEFAULT.identity for blob in own}
    assert configuration.diff_ids[0] not in {layer.diff_id for layer in whole.layers}


def test_equal_builds_are_equal_images(workshop, build) -> None:
    first = build()
    assert build() == first == build(use_cache=False)
    assert workshop.driver.build(workshop.request(TEXT)).digest != first


def test_what_is_not_asked_for_is_not_told(workshop) -> None:
    workshop.write("file", "content")
    assert workshop.image(workshop.build(TEXT).digest)[1].inline_cache == ""


def test_what_a_base_tells_is_not_inherited(workshop, build) -> None:
    manifest, configuration = workshop.image(build())
    data = configuration.to_json()
    image = resolved("told", manifest.to_json(), data)
    assert image.configuration.inline_cache
    workshop.source._images["told", workshop.plan(TEXT).platforms[0]] = image
    for blob in manifest.layers:
        workshop.source._blobs[blob.digest] = workshop.store.blobs.read(blob.digest)
    plain = workshop.build("FROM told\nRUN write b two\n").digest
    assert workshop.image(plain)[1].inline_cache == ""
    own = inside(workshop, build("FROM told\nRUN write b two\n"))
    assert len(own.entries) == 1


def test_a_packing_is_told_of_the_blobs_it_is_true_for(workshop, build) -> None:
    digest = build()
    manifest, configuration = workshop.image(digest)
    other = Compression(Compressor.ZSTD, 3)
    assert other.identity != DEFAULT.identity
    docker = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    recompressed = [
        replace(blob, digest="sha256:" + "0" * 63 + str(number), media_type=docker)
        for number, blob in enumerate(manifest.layers)
    ]
    pairs = zip(recompressed, configuration.diff_ids, strict=True)
    layers = [LayerDescriptor(descriptor, diff_id) for descriptor, diff_id in pairs]
    index = parse_inline(configuration.inline_cache, layers, "the image")
    assert {layer.media_type for layer in index.layers().values()} == {mediatype.OCI_LAYER_GZIP}
    assert len(index.entries) == len(workshop.plan(TEXT).counted())
    assert index.packings == {}


def test_the_image_is_the_same_when_a_stage_that_it_copies_from_is_not_looked_at(workshop, build) -> None:
    text = "FROM base AS made\nRUN write a one\nFROM base\nCOPY --from=made /a /b\nWORKDIR /work\n"
    first = build(text)
    made = next(one for one in workshop.plan(text).steps if one.step.stage == "made" and one.step.makes_layer)
    workshop.store.index.drop(Kind.RESULT, made.key)
    for key in list(workshop.store.index.keys(Kind.CONTENT)):
        workshop.store.index.drop(Kind.CONTENT, key)
    assert build(text) == first
    plan = workshop.plan(text)
    assert not plan.step(made.step.id).hit
    copied, placed = (inside(workshop, first).entries[plan.step(one.id).key] for one in plan.graph.chain("1.2")[1:])
    assert copied.content == copied.key
    assert placed.content != placed.key


def test_a_file_that_was_edited_meanwhile_gets_no_key(workshop, build) -> None:
    """Its content key is that of what was copied, not that of what is there when the image is put together."""
    digest = build("FROM base\nCOPY file /file\n")
    before = set(inside(workshop, digest).entries.values())
    workshop.write("file", "content")
    request = replace(workshop.request("FROM base\nCOPY file /file\n"), inline_cache=True)
    driver = workshop.driver
    driver.observer = lambda event: workshop.write("file", "edited")
    assert set(inside(workshop, driver.build(request).digest).entries.values()) == before


def test_each_platform_has_its_own(workshop, build) -> None:
    platforms = (Platform("linux", "amd64"), Platform("linux", "arm64"))
    for platform in platforms:
        workshop.source.add("both", [b"\0" * 1024], platform=platform)
    request = replace(workshop.request("FROM both\nWORKDIR /work\n"), platforms=platforms, inline_cache=True)
    report = workshop.driver.build(request)
    keys = [set(inside(workshop, image.digest).entries) for image in report.images]
    assert [len(one) for one in keys] == [1, 1]
    assert keys[0] != keys[1]


def run(folder: Path, *argv: object) -> str:
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    done = subprocess.run([str(word) for word in argv], capture_output=True, text=True, timeout=120, env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.registry
def test_others_read_the_image_as_any_other(workshop, build, registry, tmp_path) -> None:
    digest = build()
    name = f"{registry.address}/inline/app:1"
    manifest, configuration = workshop.image(digest)
    client = RegistryClient(credentials=CredentialStore(()))
    with client:
        push_image(client, Reference.parse(name), workshop.store.blobs.read(digest), workshop.store.blobs.open)
        cache = RegistryCache(lambda: client, Reference.parse(name))
        assert cache.read() == inside(workshop, digest)
    copy = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", "--preserve-digests")
    run(tmp_path, *copy, f"docker://{name}", f"oci:{tmp_path}/layout:1")
    shown = run(tmp_path, "skopeo", "inspect", "--config", "--raw", f"oci:{tmp_path}/layout:1")
    assert digest_of(shown.encode()) == manifest.config.digest
    run(tmp_path, "umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/a").read_text() == "one"
    if os.geteuid():
        return  # buildah wants user namespaces, which an ordinary user may not have
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    state = (f"--root={tmp_path}/root", f"--runroot={tmp_path}/run", "--storage-driver=vfs")
    trust = (f"--signature-policy={tmp_path}/policy.json", "--tls-verify=false")
    pulled = run(tmp_path, "buildah", *state, "pull", "--quiet", *trust, f"docker://{name}")
    assert pulled == manifest.config.digest.removeprefix("sha256:")
    assert configuration.inline_cache


def test_steps_that_keep_times_tell_when_they_were_made(workshop) -> None:
    workshop.write("file", "content")
    request = replace(workshop.request(TEXT), inline_cache=True, keep_times=True)
    index = inside(workshop, workshop.driver.build(request).digest)
    for planned in workshop.driver.plan(request).counted():
        assert planned.result is not None
        assert index.entries[planned.key].result.created == round(planned.result.created) > 0


@pytest.mark.parametrize("made", [[1], [-1, "x"], [1e400, 1 << 50], {"a": 1}, "ab", [None, [1]]], ids=repr)
def test_times_that_make_no_sense_are_none(made: object) -> None:
    keys = ["sha256:" + digit * 64 for digit in "ab"]
    text = json.dumps({"steps": [[key, "", None] for key in keys], "packing": "", "blobs": [], "made": made})
    assert [entry.result.created for entry in parse_inline(text, [], "it").entries.values()] == [0, 0]
