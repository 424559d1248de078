"""The registry client against a server that fails in every way that can be told."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from engine.events import Event, TransferProgress
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.reference import Reference
from engine.images.retry import retry_after
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError

DATA = bytes(range(256)) * 40
BLOB = Descriptor(mediatype.OCI_LAYER, digest_of(DATA), len(DATA))
BLOB_PATH = f"/v2/tool/blobs/{BLOB.digest}"


def tool(server: Any) -> Reference:
    return Reference.parse(f"{server.address}/tool:1")


def fetch(client: Any, server: Any, descriptor: Descriptor = BLOB) -> bytes:
    parts: list[bytes] = []
    client.blob(tool(server), descriptor, parts.append)
    return b"".join(parts)


def ranged(seen: Any, reply: Any, data: bytes, **options: Any) -> Any:
    """What a server that knows Range answers."""
    start = int(seen.headers.get("range", "bytes=0-")[6:-1])
    if not start:
        return reply(200, data, **options)
    told = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
    return reply(206, data[start:], told, **options)


# Names


def test_a_tag_is_resolved_by_its_headers_alone(new_client, fault_server, image) -> None:
    image.serve(fault_server, "tool", "1")
    found = new_client().resolve(tool(fault_server))
    assert (found.digest, found.size, found.media_type) == (image.digest, len(image.data), mediatype.OCI_MANIFEST)
    assert fault_server.paths("GET") == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Docker-Content-Digest": "sha256:../../x"},
        {"Docker-Content-Digest": "sha256:" + "0" * 64, "Content-Type": "text/html"},
    ],
)
def test_without_usable_headers_the_manifest_is_read(new_client, fault_server, image, reply, headers) -> None:
    fault_server.on("/v2/tool/manifests/1", reply(200, image.data, headers))
    client = new_client()
    found = client.resolve(tool(fault_server))
    assert found.digest == image.digest
    assert client.manifest(tool(fault_server), found.digest) == image.data
    assert len(fault_server.paths("GET")) == 1


def test_a_registry_without_head_is_asked_by_get(new_client, fault_server, image, reply) -> None:
    fault_server.on(
        "/v2/tool/manifests/1", lambda seen: reply(405) if seen.method == "HEAD" else reply(200, image.data)
    )
    assert new_client().resolve(tool(fault_server)).digest == image.digest


def test_an_unknown_image_is_named(new_client, fault_server, reply) -> None:
    body = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "no \x1b[31msuch tag"}]}).encode()
    fault_server.on("/v2/tool/manifests/1", reply(404, body))
    with pytest.raises(TransferError, match="tool:1") as caught:
        new_client().resolve(tool(fault_server))
    assert caught.value.code == "image-not-found"
    assert caught.value.exit_code == 4
    assert "such tag" in caught.value.message
    assert "\x1b" not in caught.value.message


def test_a_registry_that_answers_another_digest_is_refused(new_client, fault_server, image) -> None:
    pinned = tool(fault_server).pinned("sha256:" + "0" * 64)
    image.serve(fault_server, "tool", pinned.digest)
    with pytest.raises(UntrustedDataError) as caught:
        new_client().resolve(pinned)
    assert caught.value.code == "digest-mismatch"


def test_a_manifest_that_is_not_its_digest_is_refused(new_client, fault_server, image, reply) -> None:
    fault_server.on(f"/v2/tool/manifests/{image.digest}", reply(200, image.data + b" "))
    with pytest.raises(UntrustedDataError) as caught:
        new_client().manifest(tool(fault_server), image.digest)
    assert caught.value.code == "digest-mismatch"


def test_a_manifest_without_end_is_refused(new_client, fault_server, reply) -> None:
    fault_server.on("/v2/tool/manifests/1", reply(200, b" " * (5 << 20)))
    with pytest.raises(UntrustedDataError) as caught:
        new_client().resolve(tool(fault_server))
    assert caught.value.code == "answer-too-long"


def test_a_registry_that_is_down_is_unreachable(new_client, fault_server) -> None:
    reference = tool(fault_server)
    fault_server.stop()
    fault_server.stop = lambda: None
    with pytest.raises(TransferError, match=r"127\.0\.0\.1") as caught:
        new_client().resolve(reference)
    assert caught.value.code == "registry-unreachable"


def test_a_name_that_does_not_exist_is_unreachable(new_client) -> None:
    with pytest.raises(TransferError) as caught:
        new_client().resolve(Reference.parse("nowhere.invalid/tool:1"))
    assert caught.value.code == "registry-unreachable"


def test_plain_http_where_tls_was_expected_says_so(new_client, fault_server, monkeypatch) -> None:
    client = new_client()
    monkeypatch.setattr(RegistrySettings, "is_plain", lambda self, registry: False)
    with pytest.raises(TransferError) as caught:
        client.resolve(tool(fault_server))
    assert caught.value.code == "registry-unreachable"
    assert "MBUILD_INSECURE_REGISTRIES" in caught.value.hint


# Blobs


def test_a_blob_arrives_whole_with_its_progress(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, reply(200, DATA))
    events: list[Event] = []
    assert fetch(new_client(observer=events.append), fault_server) == DATA
    last = events[-1]
    assert isinstance(last, TransferProgress)
    assert (last.id, last.done, last.total, last.finished) == (BLOB.digest, len(DATA), len(DATA), True)


def test_an_empty_blob_is_a_blob(new_client, fault_server, reply) -> None:
    empty = Descriptor("", digest_of(b""), 0)
    fault_server.on(f"/v2/tool/blobs/{empty.digest}", reply(200, b""))
    assert fetch(new_client(), fault_server, empty) == b""


def test_a_cut_download_goes_on_where_it_was_cut(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, lambda seen: ranged(seen, reply, DATA, cut=4000))
    assert fetch(new_client(), fault_server) == DATA
    assert [seen.headers.get("range") for seen in fault_server.seen] == [None, "bytes=4000-", "bytes=8000-"]


def test_a_server_without_range_is_read_past_what_is_there(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, [reply(200, DATA, cut=5000), reply(200, DATA, cut=7000), reply(200, DATA)])
    assert fetch(new_client(), fault_server) == DATA


def test_a_range_that_starts_early_is_read_past_what_is_there(new_client, fault_server, reply) -> None:
    told = {"Content-Range": f"bytes 4096-{len(DATA) - 1}/{len(DATA)}"}
    fault_server.on(BLOB_PATH, [reply(200, DATA, cut=5000), reply(206, DATA[4096:], told)])
    assert fetch(new_client(), fault_server) == DATA


def test_a_range_that_leaves_a_gap_is_refused(new_client, fault_server, reply) -> None:
    told = {"Content-Range": f"bytes 6000-{len(DATA) - 1}/{len(DATA)}"}
    fault_server.on(BLOB_PATH, [reply(200, DATA, cut=5000), reply(206, DATA[6000:], told)])
    with pytest.raises(TransferError) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "registry-failed"


def test_a_download_that_is_always_cut_fails_in_the_end(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, lambda seen: ranged(seen, reply, DATA, cut=1))
    with pytest.raises(TransferError) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "registry-failed"
    assert len(fault_server.seen) == 4


@pytest.mark.parametrize("status", [416, 206])
def test_a_blob_that_is_too_short_at_the_source_is_truncated(new_client, fault_server, reply, status) -> None:
    def answer(seen: Any) -> Any:
        told = {"Content-Range": f"bytes 9000-9000/{len(DATA)}"}
        return reply(status, b"", told) if "range" in seen.headers else reply(200, DATA[:9000])

    fault_server.on(BLOB_PATH, answer)
    with pytest.raises(UntrustedDataError) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "blob-truncated"


def test_a_blob_that_announces_too_much_is_refused_before_it_is_stored(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, reply(200, DATA + b"more"))
    stored: list[bytes] = []
    with pytest.raises(UntrustedDataError) as caught:
        new_client().blob(tool(fault_server), BLOB, stored.append)
    assert caught.value.code == "blob-too-long"
    assert stored == []


def test_a_blob_that_goes_on_after_its_end_is_refused(new_client, fault_server, reply) -> None:
    told = {"Content-Range": f"bytes 5000-{len(DATA)}/*"}
    fault_server.on(BLOB_PATH, [reply(200, DATA, cut=5000), reply(206, DATA[5000:] + b"!", told)])
    with pytest.raises(UntrustedDataError) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "blob-too-long"


def test_a_blob_with_a_wrong_byte_is_refused(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, reply(200, b"!" + DATA[1:]))
    with pytest.raises(UntrustedDataError) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "digest-mismatch"


def test_a_blob_of_impossible_size_is_not_even_asked_for(new_client, fault_server) -> None:
    with pytest.raises(UntrustedDataError) as caught:
        fetch(new_client(), fault_server, Descriptor("", BLOB.digest, 1 << 50))
    assert caught.value.code == "blob-too-large"
    assert fault_server.seen == []


def test_a_missing_blob_is_named(new_client, fault_server) -> None:
    with pytest.raises(TransferError, match=BLOB.digest) as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "blob-not-found"


def test_an_error_of_the_sink_is_its_own(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, reply(200, DATA))

    def full(data: bytes) -> None:
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"):
        new_client().blob(tool(fault_server), BLOB, full)


# Patience


@pytest.mark.parametrize("status", [429, 500, 502, 503, 408])
def test_a_busy_registry_is_asked_again(new_client, fault_server, reply, status) -> None:
    fault_server.on(BLOB_PATH, [reply(status), reply(status), reply(200, DATA)])
    assert fetch(new_client(), fault_server) == DATA


def test_a_registry_that_asks_for_time_gets_it(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, [reply(429, headers={"Retry-After": "1"}), reply(200, DATA)])
    began = time.monotonic()
    assert fetch(new_client(), fault_server) == DATA
    assert time.monotonic() - began >= 1


def test_a_registry_that_asks_for_too_much_time_is_given_up(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, reply(429, headers={"Retry-After": "3600"}))
    with pytest.raises(TransferError, match="429") as caught:
        fetch(new_client(), fault_server)
    assert caught.value.code == "registry-failed"
    assert len(fault_server.seen) == 1


def test_a_registry_that_stays_broken_is_given_up(new_client, fault_server, reply) -> None:
    fault_server.on("/v2/tool/manifests/1", reply(500))
    with pytest.raises(TransferError, match="500") as caught:
        new_client().resolve(tool(fault_server))
    assert caught.value.code == "registry-failed"
    assert len(fault_server.paths("GET")) == 4


def test_silence_is_not_waited_for_for_ever(new_client, fault_server, reply) -> None:
    release = threading.Event()

    def silent(seen: Any) -> Any:
        release.wait(10)
        return reply(500)

    fault_server.on(BLOB_PATH, silent)
    impatient = TransferPolicy(attempts=2, backoff=0.01, read_timeout=0.2)
    try:
        with pytest.raises(TransferError) as caught:
            fetch(new_client(policy=impatient), fault_server)
    finally:
        release.set()
    assert caught.value.code == "registry-failed"


def test_a_download_that_only_drips_is_given_up(new_client, fault_server, reply) -> None:
    fault_server.on(BLOB_PATH, lambda seen: ranged(seen, reply, DATA, pause=0.02))
    impatient = TransferPolicy(attempts=2, backoff=0.01, read_timeout=0.2)
    with pytest.raises(TransferError, match="next to nothing") as caught:
        fetch(new_client(policy=impatient), fault_server)
    assert caught.value.code == "registry-failed"


def test_a_manifest_that_only_drips_is_given_up(new_client, fault_server, reply, image) -> None:
    fault_server.on("/v2/tool/manifests/1", reply(200, image.data, pause=0.02))
    impatient = TransferPolicy(attempts=2, backoff=0.01, small_deadline=0.2)
    with pytest.raises(TransferError, match="did not arrive") as caught:
        new_client(policy=impatient).resolve(tool(fault_server))
    assert caught.value.code == "registry-failed"


def test_a_cancelled_build_does_not_wait(new_client, fault_server, reply) -> None:
    cancelled = threading.Event()

    def answer(seen: Any) -> Any:
        cancelled.set()
        return reply(503, headers={"Retry-After": "3"})

    fault_server.on(BLOB_PATH, answer)
    began = time.monotonic()
    with pytest.raises(InterruptedBuildError):
        fetch(new_client(cancelled=cancelled), fault_server)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0), (" 12 ", 12), ("", None), ("soon", None), ("-1", None), ("9" * 50, None), ("١", None)],
)
def test_retry_after_in_seconds(header: str, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (retry_after("Fri, 31 Dec 2100 23:59:59 GMT") or 0) > 1e9
