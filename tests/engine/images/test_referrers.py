"""Manifests about images are found by the images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from push_registry import PushRegistry

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest, parse_manifest
from engine.images.push import put_manifest
from engine.images.reference import Reference
from engine.images.referrers import list_referrers

SUBJECT = "sha256:" + "a" * 64
TAG = SUBJECT.replace(":", "-")
KIND = "application/vnd.in-toto+json"


@pytest.fixture
def registry() -> Iterator[PushRegistry]:
    running = PushRegistry()
    running.blobs["app", digest_of(b"{}")] = b"{}"
    yield running
    running.stop()


def about(subject: str, note: str) -> tuple[Descriptor, Manifest]:
    manifest = Manifest(
        Descriptor("application/vnd.oci.empty.v1+json", digest_of(b"{}"), 2),
        (),
        annotations=(("note", note),),
        artifact_type=KIND,
        subject=Descriptor(mediatype.OCI_MANIFEST, subject, 7),
    )
    data = manifest.to_json()
    assert parse_manifest(data) == manifest, "nothing of it is lost on the way"
    return Descriptor(manifest.media_type, digest_of(data), len(data)), manifest


def tagged(registry: PushRegistry) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(registry.manifests["app", TAG])["manifests"]
    return listed


def test_they_are_listed_under_a_tag_where_the_registry_does_not_know_referrers(
    registry: PushRegistry, new_client: Any
) -> None:
    client, name = new_client(), Reference.parse(f"{registry.address}/app:1")
    first, second = about(SUBJECT, "1"), about(SUBJECT, "2")
    for found, manifest in (first, second):
        put_manifest(client, name, manifest.to_json(), manifest.media_type, found.digest)
    list_referrers(client, name, [first])
    (line,) = tagged(registry)
    assert (line["digest"], line["artifactType"]) == (first[0].digest, KIND)
    list_referrers(client, name, [second, first])
    assert tagged(registry)[0] == line, "what others have listed stays as it is"
    assert [one["digest"] for one in tagged(registry)] == [first[0].digest, second[0].digest]


def test_a_registry_that_lists_them_itself_gets_no_tag(registry: PushRegistry, new_client: Any) -> None:
    empty = json.dumps({"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": []}).encode()
    registry.handlers[f"/v2/app/referrers/{SUBJECT}"] = lambda request: (200, {}, empty)
    client, name = new_client(), Reference.parse(f"{registry.address}/app:1")
    found, manifest = about(SUBJECT, "1")
    put_manifest(client, name, manifest.to_json(), manifest.media_type, found.digest)
    list_referrers(client, name, [(found, manifest)])
    assert ("app", TAG) not in registry.manifests


def test_images_themselves_are_about_nothing(registry: PushRegistry, new_client: Any) -> None:
    manifest = Manifest(Descriptor(mediatype.OCI_CONFIG, digest_of(b"{}"), 2), ())
    found = Descriptor(manifest.media_type, digest_of(manifest.to_json()), 2)
    list_referrers(new_client(), Reference.parse(f"{registry.address}/app:1"), [(found, manifest)])
    assert registry.seen == []
