"""Files over HTTP, from a real server: what is asked, what is fetched, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.blobs import digest_of
from engine.events import TransferProgress
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Browser, FileServer, Page

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def test_the_first_time_the_file_is_fetched(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", b"hello", etag='"1"')
    assert browser.web.pin(url) == digest_of(b"hello")
    assert browser.content(digest_of(b"hello")) == b"hello"
    last = browser.events[-1]
    assert isinstance(last, TransferProgress)
    assert (last.label, last.done, last.total, last.finished) == ("f", 5, 5, True)


@pytest.mark.parametrize("validator", [{"etag": '"1"'}, {"etag": 'W/"1"'}, {"modified": DATE}])
def test_an_unchanged_file_is_asked_for_and_not_fetched(
    server: FileServer, browser: Browser, validator: dict[str, str]
) -> None:
    url = server.put("/f", b"hello", **validator)
    first = browser.web.pin(url)
    assert browser.web.pin(url) == first
    assert len(server.asked) == 2
    assert server.sent == len(b"hello")
    assert {"if-none-match", "if-modified-since"} & server.asked[1].headers.keys()


def test_the_same_etag_with_status_200_means_unchanged_too(server: FileServer, browser: Browser) -> None:
    body = bytes(1 << 20)
    url = server.put("/f", body, etag='"1"', honest=False)
    assert browser.web.pin(url) == browser.web.pin(url) == digest_of(body)
    assert len(browser.events) == len([one for one in browser.events if isinstance(one, TransferProgress)])
    assert [one.finished for one in browser.events if isinstance(one, TransferProgress)].count(True) == 1


def test_a_changed_file_is_fetched_again(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", b"old", etag='"1"', modified=DATE)
    browser.web.pin(url)
    server.put("/f", b"new", etag='"2"', modified=DATE.replace("07", "08"))
    assert browser.web.pin(url) == digest_of(b"new")


def test_without_etag_and_date_it_is_fetched_every_time(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", b"hello")
    browser.web.pin(url)
    server.put("/f", b"other")
    assert browser.web.pin(url) == digest_of(b"other")
    assert not {"if-none-match", "if-modified-since"} & server.asked[1].headers.keys()


def test_what_the_server_calls_unchanged_and_the_store_has_lost_is_brought_again(
    server: FileServer, browser: Browser
) -> None:
    url = server.put("/f", b"hello", etag='"1"')
    digest = browser.web.pin(url)
    browser.store.blobs.drop(digest)
    assert browser.web.pin(url) == digest
    assert not browser.store.blobs.has(digest), "for a key the digest is enough"
    assert browser.web.bring(url, digest) == digest
    assert browser.content(digest) == b"hello"


def test_a_blob_that_is_there_needs_no_server(server: FileServer, browser: Browser) -> None:
    digest = browser.store.blobs.put(b"here")
    assert browser.web.bring(server.url + "/gone", digest) == digest
    assert server.asked == []


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_checksum_is_checked(server: FileServer, browser: Browser, algorithm: str) -> None:
    url = server.put("/f", b"hello")
    right = f"{algorithm}:{hashlib.new(algorithm, b'hello').hexdigest()}"
    assert browser.web.bring(url, right) == digest_of(b"hello")
    assert browser.web.bring(url, right) == digest_of(b"hello")
    assert len(server.asked) == 1, "the second time nothing is asked"
    wrong = f"{algorithm}:{hashlib.new(algorithm, b'other').hexdigest()}"
    with pytest.raises(UntrustedDataError) as raised:
        browser.web.bring(url, wrong)
    assert raised.value.code == "digest-mismatch"
    assert wrong in raised.value.message
    assert right in raised.value.message
    assert browser.half_done() == []


@pytest.mark.parametrize("validator", [{"etag": '"1"'}, {"modified": DATE}])
def test_a_cut_download_goes_on_where_it_was_cut(
    server: FileServer, browser: Browser, validator: dict[str, str]
) -> None:
    body = bytes(range(256)) * 64
    url = server.put("/f", body, cut=5000, **validator)
    assert browser.web.pin(url) == digest_of(body)
    assert server.asked[1].headers["range"] == "bytes=5000-"
    assert server.sent == len(body)


@pytest.mark.parametrize("how", [{"ranges": False, "etag": '"1"'}, {}, {"etag": 'W/"1"'}])
def test_a_cut_download_that_cannot_go_on_begins_anew(
    server: FileServer, browser: Browser, how: dict[str, object]
) -> None:
    body = bytes(range(256)) * 64
    url = server.put("/f", body, cut=5000, **how)
    assert browser.web.pin(url) == digest_of(body)
    assert server.sent == len(body) + 5000


def test_a_file_that_changes_while_it_is_fetched_is_the_new_one(server: FileServer, browser: Browser) -> None:
    def page() -> Page:
        if len(server.asked) == 1:
            return server.page(b"a" * 100, etag='"1"', cut=50)
        return server.page(b"b" * 90, etag='"2"')

    server.pages["/f"] = page
    assert browser.web.pin(server.url + "/f") == digest_of(b"b" * 90)


def test_a_download_that_is_cut_again_and_again_fails(server: FileServer, browser: Browser) -> None:
    server.pages["/f"] = lambda: server.page(b"x" * 100, cut=10)
    with pytest.raises(TransferError) as raised:
        browser.web.pin(server.url + "/f")
    assert raised.value.code == "remote-failed"
    assert len(server.asked) == browser.policy.attempts
    assert browser.half_done() == []


def test_redirects_are_followed(server: FileServer, browser: Browser) -> None:
    url = server.put("/a", status=302, headers={"Location": "/b"})
    server.put("/b", status=307, headers={"Location": server.url + "/c"})
    server.put("/c", b"hello")
    assert browser.web.pin(url) == digest_of(b"hello")


@pytest.mark.parametrize("target", ["/a", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://"])
def test_redirects_without_end_or_to_elsewhere_are_refused(server: FileServer, browser: Browser, target: str) -> None:
    url = server.put("/a", status=302, headers={"Location": target})
    with pytest.raises(TransferError) as raised:
        browser.web.pin(url)
    assert raised.value.code == "remote-failed"
    assert "redirects" in raised.value.message
    assert len(server.asked) < 10


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "remote-missing"), (410, "remote-missing"), (401, "remote-refused"), (403, "remote-refused")],
)
def test_what_is_not_to_be_had_is_not_tried_again(server: FileServer, browser: Browser, status: int, code: str) -> None:
    url = server.put("/f", b"an error page", status=status)
    with pytest.raises(TransferError) as raised:
        browser.web.pin(url)
    assert raised.value.code == code
    assert len(server.asked) == 1
    assert not browser.store.blobs.has(digest_of(b"an error page"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_tried_again(server: FileServer, browser: Browser, status: int) -> None:
    server.pages["/f"] = lambda: server.page(b"hello", status=200 if len(server.asked) == 3 else status)
    assert browser.web.pin(server.url + "/f") == digest_of(b"hello")


def test_an_error_that_stays_is_told(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", status=503)
    with pytest.raises(TransferError, match="503") as raised:
        browser.web.pin(url)
    assert raised.value.code == "remote-failed"
    assert "registry" not in raised.value.message + raised.value.hint


def test_a_file_that_says_it_is_too_large_is_not_begun(server: FileServer, browser: Browser) -> None:
    browser.largest = 1000
    url = server.put("/f", bytes(2000))
    with pytest.raises(TransferError) as raised:
        browser.web.pin(url)
    assert raised.value.code == "remote-too-large"


def test_a_file_without_end_is_given_up(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", endless=True)
    with pytest.raises(TransferError) as raised:
        browser.web.pin(url)
    assert raised.value.code == "remote-too-large"
    assert browser.half_done() == []


def test_a_server_that_hardly_sends_is_given_up(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", b"x" * 200, pause=0.05)
    begun = time.monotonic()
    with pytest.raises(TransferError, match="next to nothing"):
        browser.web.pin(url)
    assert time.monotonic() - begun < 5


def test_a_server_that_is_not_there_is_named(browser: Browser) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(TransferError) as raised:
        browser.web.pin(f"http://127.0.0.1:{port}/f")
    assert raised.value.code == "remote-unreachable"
    assert "127.0.0.1" in raised.value.message


def test_a_download_stops_when_the_build_is_cancelled(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", b"x" * 2000, pause=0.02)
    timer = threading.Timer(0.2, browser.cancelled.set)
    timer.start()
    begun = time.monotonic()
    with pytest.raises(InterruptedBuildError):
        browser.web.pin(url)
    timer.join()
    assert time.monotonic() - begun < 3
    assert browser.half_done() == []


def test_a_password_in_the_address_goes_to_its_host_and_into_no_message(server: FileServer, browser: Browser) -> None:
    server.put("/a", status=302, headers={"Location": server.url.replace("127.0.0.1", "localhost") + "/b"})
    url = server.url.replace("http://", "http://ada:lovelace@") + "/a"
    with pytest.raises(TransferError) as raised:
        browser.web.pin(url)
    assert "lovelace" not in raised.value.message + raised.value.hint
    assert "authorization" in server.asked[0].headers
    assert "authorization" not in server.asked[1].headers


def test_two_at_once_fetch_it_once(server: FileServer, browser: Browser) -> None:
    url = server.put("/f", b"x" * 40, etag='"1"', pause=0.005)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(browser.web.pin(url))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [digest_of(b"x" * 40)] * 3
    assert server.sent == 40


def test_an_index_that_makes_no_sense_counts_as_empty(server: FileServer, browser: Browser) -> None:
    from cache.index import Kind

    url = server.put("/f", b"hello", etag='"1"')
    key = hashlib.sha256(url.encode()).hexdigest()
    for nonsense in ([], ["sha256:../../x", 1, "", ""], {"a": 1}, [1, 2, 3, 4]):
        browser.store.index.put(Kind.REMOTE, key, nonsense)
        assert browser.web.pin(url) == digest_of(b"hello")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.integers(0, 300), max_size=6), st.sampled_from(['"1"', 'W/"1"', ""]), st.booleans())
def test_however_a_download_is_cut_the_file_is_whole(
    server: FileServer, browser: Browser, cuts: list[int], etag: str, ranges: bool
) -> None:
    body = bytes(range(256)) + b"end"
    path, left = f"/{len(server.asked)}", list(cuts)
    server.pages[path] = lambda: server.page(body, etag=etag, ranges=ranges, cut=left.pop(0) if left else None)
    browser.policy = dataclasses.replace(browser.policy, attempts=20, backoff=0.0001, longest_wait=1000.0)
    assert browser.web.pin(server.url + path) == digest_of(body)


def test_no_redirect_leads_from_tls_to_plain_http(
    server: FileServer, browser: Browser, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = server.put("/f", b"hello")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    secure = server.another(certificate)
    try:
        direct = secure.put("/direct", b"over TLS")
        assert browser.web.pin(direct) == digest_of(b"over TLS")
        for target in (plain, plain.replace("127.0.0.1", "localhost")):
            url = secure.put("/f", status=302, headers={"Location": target})
            with pytest.raises(TransferError, match="plain HTTP") as raised:
                browser.web.pin(url)
            assert raised.value.code == "remote-failed"
        assert server.asked == []
    finally:
        secure.stop()


def test_a_certificate_that_nobody_knows_is_not_trusted(
    server: FileServer, browser: Browser, certificate: tuple[Path, Path]
) -> None:
    secure = server.another(certificate)
    try:
        with pytest.raises(TransferError) as raised:
            browser.web.pin(secure.put("/f", b"hello"))
    finally:
        secure.stop()
    assert raised.value.code == "remote-untrusted-certificate"
    assert "registr" not in raised.value.message + raised.value.hint
