"""Pushes into a registry that has bad days."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import hypothesis
import hypothesis.strategies as st
import pytest
from push_registry import Fault, PushRegistry, Request

from engine.events import Event, TransferProgress
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Index, Manifest
from engine.images.policy import TransferPolicy
from engine.images.push import Pushed, push_image
from engine.images.reference import Reference
from machinefile.errors import (
    InterruptedBuildError,
    MbuildError,
    StoreError,
    TransferError,
    UntrustedDataError,
    UsageError,
)
from machinefile.platform import Platform

BIG = random.Random(7).randbytes(3 << 20)


@pytest.fixture
def registry() -> Iterator[PushRegistry]:
    running = PushRegistry()
    yield running
    running.stop()


@dataclass
class Shelf:
    """Blobs on this side."""

    blobs: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes, kind: str = mediatype.OCI_LAYER) -> Descriptor:
        self.blobs[digest_of(data)] = data
        return Descriptor(kind, digest_of(data), len(data))

    def open(self, digest: str) -> BinaryIO:
        if digest not in self.blobs:
            raise StoreError(f"lost {digest}", code="blob-missing")
        return io.BytesIO(self.blobs[digest])

    def image(self, *layers: bytes, config: bytes = b"{}") -> Manifest:
        manifest = Manifest(self.add(config, mediatype.OCI_CONFIG), tuple(self.add(layer) for layer in layers))
        self.add(manifest.to_json(), manifest.media_type)
        return manifest


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def push(registry: PushRegistry, shelf: Shelf, new_client: Any) -> Callable[..., Pushed]:
    def run(manifest: Manifest | Index, name: str = "app:1", **options: Any) -> Pushed:
        client = options.pop("client", None) or new_client()
        reference = Reference.parse(f"{registry.address}/{name}")
        return push_image(client, reference, manifest.to_json(), shelf.open, **options)

    return run


def times(number: int, fault: Fault, method: str, part: str) -> Callable[[Request], Fault | None]:
    """The fault, for so many of these requests."""
    left = [number]

    def trouble(request: Request) -> Fault | None:
        if request.method != method or part not in request.path or not left[0]:
            return None
        left[0] -= 1
        return fault

    return trouble


# As it should be


def test_everything_arrives_and_the_tag_comes_last(registry, shelf, push) -> None:
    manifest = shelf.image(b"small", BIG)
    done = push(manifest)
    assert (done.sent, done.mounted, done.there) == (3, 0, 0)
    assert done.digest == digest_of(manifest.to_json())
    assert registry.manifests["app", "1"] == manifest.to_json()
    assert registry.blobs["app", digest_of(BIG)] == BIG
    assert registry.seen[-1].path == "/v2/app/manifests/1"
    assert registry.seen[-1].headers["content-type"] == mediatype.OCI_MANIFEST


def test_what_is_there_is_not_sent_again(registry, shelf, push) -> None:
    manifest = shelf.image(b"small", BIG)
    push(manifest)
    registry.seen.clear()
    done = push(manifest, "app:2")
    assert (done.sent, done.there) == (0, 3)
    assert {one.method for one in registry.seen} == {"HEAD", "PUT"}
    assert registry.manifests["app", "2"] == manifest.to_json()


def test_a_blob_that_two_layers_share_is_sent_once(registry, shelf, push) -> None:
    assert push(shelf.image(BIG, BIG)).sent == 2
    assert len(registry.asked("PATCH")) == 1


def test_an_empty_blob_is_pushed(registry, shelf, push) -> None:
    push(shelf.image(b""))
    assert registry.blobs["app", digest_of(b"")] == b""


def test_a_blob_of_another_repository_is_mounted(registry, shelf, push) -> None:
    registry.blobs["base", digest_of(BIG)] = BIG
    origins = {digest_of(BIG): ["base"]}
    done = push(shelf.image(BIG), origins=lambda digest: origins.get(digest, []))
    assert (done.mounted, done.sent) == (1, 1)
    assert registry.blobs["app", digest_of(BIG)] == BIG
    assert registry.asked("PATCH") == []


def test_a_blob_that_cannot_be_mounted_is_sent(registry, shelf, push) -> None:
    done = push(shelf.image(BIG), origins=lambda digest: ["gone", "never"])
    assert (done.mounted, done.sent) == (0, 2)
    assert len(registry.asked("POST")) == 2, "the upload that the failed mount opened is used"


def test_a_repository_that_we_may_not_read_is_no_reason_to_fail(registry, shelf, push) -> None:
    registry.trouble = lambda request: Fault(403) if "from" in request.query else None
    assert push(shelf.image(BIG), origins=lambda digest: ["secret"]).sent == 2


def test_its_own_repository_is_not_asked_for_a_mount(registry, shelf, push) -> None:
    push(shelf.image(BIG), origins=lambda digest: ["app"])
    assert all("from" not in one.query for one in registry.seen)


def test_an_index_comes_after_its_images(registry, shelf, push) -> None:
    images = [shelf.image(name, config=b'{"a":"%s"}' % name) for name in (b"one", b"two")]
    entries = [
        Descriptor(one.media_type, digest_of(one.to_json()), len(one.to_json()), Platform("linux", name))
        for one, name in zip(images, ("amd64", "arm64"), strict=True)
    ]
    push(Index(tuple(entries)))
    put = [one.path for one in registry.asked("PUT", "/manifests/")]
    assert put == [f"/v2/app/manifests/{entry.digest}" for entry in entries] + ["/v2/app/manifests/1"]
    assert registry.types[digest_of(Index(tuple(entries)).to_json())] == mediatype.OCI_INDEX


def test_an_image_of_an_index_that_is_not_here_is_named_before_anything_is_sent(registry, shelf, push) -> None:
    with pytest.raises(StoreError) as caught:
        push(Index((Descriptor(mediatype.OCI_MANIFEST, digest_of(b"?"), 1),)))
    assert caught.value.code == "blob-missing"
    assert registry.seen == []


def test_a_foreign_layer_stays_where_it_is(registry, shelf, push) -> None:
    manifest = shelf.image(b"own")
    foreign = Descriptor(mediatype.OCI_LAYER, digest_of(b"foreign"), 7, urls=("https://example.org/layer",))
    manifest = Manifest(manifest.config, (foreign, *manifest.layers))
    assert push(manifest).sent == 2


def test_a_name_with_a_digest_pushes_exactly_that(registry, shelf, push) -> None:
    manifest = shelf.image(b"x")
    push(manifest, f"app@{digest_of(manifest.to_json())}")
    assert ("app", digest_of(manifest.to_json())) in registry.manifests
    assert ("app", "latest") not in registry.manifests
    with pytest.raises(UsageError) as caught:
        push(shelf.image(b"y"), f"app@{digest_of(manifest.to_json())}")
    assert caught.value.code == "push-digest"


def test_progress_is_told_for_each_blob(registry, shelf, push, new_client) -> None:
    events: list[Event] = []
    push(shelf.image(BIG), observer=events.append)
    told = [event for event in events if isinstance(event, TransferProgress)]
    last = {event.id: event for event in told}[f"push {digest_of(BIG)}"]
    assert (last.done, last.total, last.finished) == (len(BIG), len(BIG), True)


def test_four_at_a_time(registry, shelf, push, new_client) -> None:
    started = threading.Barrier(4, timeout=10)

    def slow(request: Request) -> None:
        if request.method == "POST" and len(registry.asked("POST")) <= 4:
            started.wait()
        time.sleep(0.01)

    registry.trouble = slow
    push(shelf.image(*[bytes([number]) * 10 for number in range(11)]), client=new_client(policy=TransferPolicy()))
    assert registry.most_busy == 4


# Cuts


def test_a_cut_upload_goes_on_where_it_was_cut(registry, shelf, push) -> None:
    registry.trouble = times(1, Fault(after=1 << 20), "PATCH", "")
    push(shelf.image(BIG))
    ranges = [one.headers.get("content-range") for one in registry.asked("PATCH")]
    assert ranges == [None, f"{1 << 20}-{len(BIG) - 1}"]
    assert registry.blobs["app", digest_of(BIG)] == BIG


def test_a_registry_that_kept_nothing_of_a_cut_upload_gets_all_of_it(registry, shelf, push) -> None:
    registry.trouble = times(2, Fault(), "PATCH", "")
    push(shelf.image(BIG))
    assert registry.blobs["app", digest_of(BIG)] == BIG
    assert len(registry.asked("POST", "uploads")) == 2, "one for the layer, one for the configuration"


@pytest.mark.parametrize("status", [404, 416, 400])
def test_a_registry_that_forgot_a_cut_upload_gets_a_new_one(registry, shelf, push, status: int) -> None:
    cut, forgot = times(1, Fault(after=100_000), "PATCH", ""), times(1, Fault(status), "GET", "uploads")
    registry.trouble = lambda request: cut(request) or forgot(request)
    push(shelf.image(BIG))
    assert len(registry.asked("POST", "uploads")) == 3
    assert registry.blobs["app", digest_of(BIG)] == BIG


@pytest.mark.parametrize("status", [416, 404])
def test_an_upload_that_is_refused_in_the_middle_begins_anew(registry, shelf, push, status: int) -> None:
    registry.trouble = times(1, Fault(status), "PATCH", "")
    push(shelf.image(BIG))
    assert registry.blobs["app", digest_of(BIG)] == BIG


def test_the_last_answer_lost_does_not_send_it_twice(registry, shelf, push) -> None:
    registry.trouble = times(1, Fault(obey=True), "PUT", "uploads")
    push(shelf.image(BIG, config=BIG[:5]))
    assert len(registry.asked("PATCH")) == 1
    assert registry.blobs["app", digest_of(BIG)] == BIG


def test_a_small_blob_that_was_cut_is_sent_anew(registry, shelf, push) -> None:
    registry.trouble = lambda request: (
        Fault(after=3) if request.method == "PUT" and len(registry.asked("PUT", "uploads")) == 1 else None
    )
    push(Manifest(shelf.add(b"a configuration", mediatype.OCI_CONFIG), ()))
    assert registry.blobs == {("app", digest_of(b"a configuration")): b"a configuration"}
    assert len(registry.asked("PUT", "uploads")) == 2
    assert registry.asked("GET") == []


def test_a_manifest_whose_answer_is_lost_is_put_again(registry, shelf, push) -> None:
    registry.trouble = times(1, Fault(obey=True), "PUT", "manifests")
    push(shelf.image(b"x"))
    assert len(registry.asked("PUT", "manifests")) == 2


def test_many_cuts_with_progress_between_them_are_survived(registry, shelf, push) -> None:
    registry.trouble = times(8, Fault(after=300_000), "PATCH", "")
    push(shelf.image(BIG))
    assert registry.blobs["app", digest_of(BIG)] == BIG


def test_cuts_without_progress_are_not_survived_for_ever(registry, shelf, push) -> None:
    registry.trouble = times(1000, Fault(), "PATCH", "")
    with pytest.raises(TransferError) as caught:
        push(shelf.image(BIG))
    assert caught.value.code == "registry-failed"
    assert len(registry.asked("PATCH")) == 4
    assert registry.manifests == {}


FAULTS = st.one_of(
    st.builds(Fault, after=st.integers(0, len(BIG))),
    st.builds(Fault, status=st.sampled_from([400, 404, 408, 416, 429, 500, 502])),
    st.builds(Fault, obey=st.booleans()),
)


@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(troubles=st.lists(st.tuples(st.sampled_from(["HEAD", "GET", "POST", "PATCH", "PUT"]), FAULTS)))
def test_whatever_happens_the_image_is_there_whole_or_not_at_all(registry, shelf, push, new_client, troubles) -> None:
    registry.blobs.clear()
    registry.manifests.clear()
    left = list(troubles)

    def trouble(request: Request) -> Fault | None:
        return left.pop(0)[1] if left and request.method == left[0][0] else None

    registry.trouble = trouble
    manifest = Manifest(shelf.add(BIG, mediatype.OCI_CONFIG), ())
    try:
        push(manifest, client=new_client(policy=TransferPolicy(attempts=3, backoff=0.001, longest_wait=1)))
    except TransferError:
        assert left != troubles
        assert not registry.manifests or registry.blobs == {("app", digest_of(BIG)): BIG}
    else:
        assert registry.blobs == {("app", digest_of(BIG)): BIG}
        assert registry.manifests["app", "1"] == manifest.to_json()


# Busy registries


@pytest.mark.parametrize(("method", "part"), [("HEAD", "blobs"), ("POST", ""), ("PATCH", ""), ("PUT", "")])
@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_registry_is_asked_again(registry, shelf, push, method: str, part: str, status: int) -> None:
    registry.trouble = times(2, Fault(status), method, part)
    manifest = shelf.image(BIG)
    push(manifest)
    assert registry.manifests["app", "1"] == manifest.to_json()


def test_a_registry_that_asks_for_time_gets_it(registry, shelf, push) -> None:
    registry.trouble = times(1, Fault(429, {"Retry-After": "1"}), "PATCH", "")
    began = time.monotonic()
    push(shelf.image(BIG))
    assert time.monotonic() - began >= 1


def test_a_registry_that_stays_broken_is_given_up_and_nothing_is_tagged(registry, shelf, push) -> None:
    registry.trouble = times(1000, Fault(500, body=b'{"errors": [{"message": "out of disks"}]}'), "PUT", "uploads")
    with pytest.raises(TransferError, match="out of disks") as caught:
        push(shelf.image(BIG))
    assert caught.value.code == "registry-failed"
    assert registry.asked("PUT", "manifests") == []


# Refusals


@pytest.mark.parametrize(("status", "word"), [(405, "reading"), (413, "limits")])
def test_a_refused_blob_says_why(registry, shelf, push, status: int, word: str) -> None:
    registry.trouble = times(1000, Fault(status), "PATCH" if status == 413 else "POST", "")
    with pytest.raises(TransferError) as caught:
        push(shelf.image(BIG))
    assert caught.value.code == "push-refused"
    assert word in caught.value.hint


@pytest.mark.parametrize(("status", "word"), [(400, "type"), (405, "reading"), (409, "tags")])
def test_a_refused_manifest_says_why(registry, shelf, push, status: int, word: str) -> None:
    registry.trouble = times(9, Fault(status, body=b'{"errors": [{"message": "no!"}]}'), "PUT", "manifests")
    with pytest.raises(TransferError, match="no!") as caught:
        push(shelf.image(b"x"))
    assert caught.value.code == "push-refused"
    assert word in caught.value.hint


def test_a_registry_that_changes_the_manifest_is_found_out(registry, shelf, push) -> None:
    registry.trouble = times(1, Fault(201, {"Docker-Content-Digest": digest_of(b"other")}), "PUT", "manifests")
    with pytest.raises(UntrustedDataError) as caught:
        push(shelf.image(b"x"))
    assert caught.value.code == "digest-mismatch"


def test_an_upload_that_leads_nowhere_is_refused(registry, shelf, push) -> None:
    registry.trouble = times(9, Fault(202), "POST", "")
    with pytest.raises(TransferError, match="does not say where") as caught:
        push(shelf.image(b"x"))
    assert caught.value.code == "registry-failed"


@pytest.mark.parametrize("spoil", [lambda data: b"!" + data[1:], lambda data: data[:-1]])
def test_a_blob_damaged_on_this_side_is_found_out(registry, shelf, push, spoil) -> None:
    manifest = shelf.image(BIG)
    shelf.blobs[digest_of(BIG)] = spoil(BIG)
    with pytest.raises(StoreError) as caught:
        push(manifest)
    assert caught.value.code == "blob-corrupt"
    assert registry.manifests == {}


def test_the_first_failure_stops_the_others(registry, shelf, push) -> None:
    refused = digest_of(b"refused")
    registry.trouble = lambda request: (
        Fault(400)
        if refused in request.path
        else Fault(429, {"Retry-After": "3"})
        if request.method == "POST"
        else None
    )
    began = time.monotonic()
    with pytest.raises(TransferError) as caught:
        push(shelf.image(b"refused", b"one", b"two"))
    assert caught.value.code == "registry-failed"
    assert time.monotonic() - began < 2.5


def test_a_push_that_is_cancelled_ends_at_once(registry, shelf, push, new_client) -> None:
    cancelled = threading.Event()

    def trouble(request: Request) -> Fault | None:
        if request.method == "PATCH":
            cancelled.set()
            return Fault(429, {"Retry-After": "3"})
        return None

    registry.trouble = trouble
    began = time.monotonic()
    with pytest.raises(InterruptedBuildError):
        push(shelf.image(BIG), client=new_client(cancelled=cancelled), cancelled=cancelled)
    assert time.monotonic() - began < 2.5


# Where uploads go


@pytest.mark.parametrize("location", ["/v2/{repository}/blobs/uploads/{id}?_state=a%2Fb", "http://{{host}}{path}"])
def test_an_upload_goes_where_the_registry_says(registry, shelf, push, location: str) -> None:
    path = "/v2/{repository}/blobs/uploads/{id}"
    registry.location = location.replace("{{host}}", registry.address).replace("{path}", path)
    push(shelf.image(BIG))
    assert registry.blobs["app", digest_of(BIG)] == BIG
    if "_state" in location:
        assert {one.query["_state"] for one in registry.asked("PATCH")} == {"a/b"}


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https://[::1/x"])
def test_an_upload_to_nowhere_is_refused(registry, shelf, push, location: str) -> None:
    registry.location = location
    with pytest.raises(MbuildError) as caught:
        push(shelf.image(b"x"))
    assert caught.value.code == "registry-failed"
