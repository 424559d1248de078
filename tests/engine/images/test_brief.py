"""Brief requests, which need no httpx."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from engine.images import brief as brief_requests
from engine.images.brief import BriefClient
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.reference import Reference
from engine.images.retry import RetryableError

BUILD = """
import json, sys
from mbuild.__main__ import main
code = main(sys.argv[1:])
print()
print(json.dumps([code, [name for name in ("httpx", "http.client") if name in sys.modules]]))
"""


@pytest.fixture
def brief() -> BriefClient:
    return BriefClient(RegistrySettings(), TransferPolicy())


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def tool(server: Any) -> Reference:
    return Reference.parse(f"{server.address}/tool:1")


def build(folder: Path) -> list[Any]:
    arguments = [sys.executable, "-c", BUILD, "-q", "--cache-dir", str(folder / "store"), "-t", "kept", str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def with_tokens(server: Any, reply: Any, path: str) -> None:
    """Whoever asks for a path needs a token, which everybody gets."""
    answer = server.answers(path)

    def guarded(seen: Any) -> Any:
        if seen.headers.get("authorization") == "Bearer sesame":
            return answer
        challenge = f'Bearer realm="{server.url}/token",service="s"'
        return reply(401, b"{}", headers={"WWW-Authenticate": challenge})

    server.on(path, guarded)
    server.on("/token", reply(200, b'{"token": "sesame"}'))


@pytest.mark.parametrize("tokens", [False, True])
def test_a_cached_build_asks_for_its_base_without_httpx(fault_server, image, reply, tmp_path, tokens) -> None:
    image.serve(fault_server, "tool", "1")
    if tokens:
        with_tokens(fault_server, reply, "/v2/tool/manifests/1")
        for digest in image.blobs:
            with_tokens(fault_server, reply, f"/v2/tool/blobs/{digest}")
        with_tokens(fault_server, reply, f"/v2/tool/manifests/{image.digest}")
    (tmp_path / "Machinefile").write_text(f"FROM {fault_server.address}/tool:1\nCOPY Machinefile /x\n")
    assert build(tmp_path) == [0, ["httpx", "http.client"]]
    before = len(fault_server.seen)
    assert build(tmp_path) == [0, ["http.client"]]
    asked = [(seen.method, seen.path.partition("?")[0]) for seen in fault_server.seen[before:]]
    head = ("HEAD", "/v2/tool/manifests/1")
    assert asked == ([head, ("GET", "/token"), head] if tokens else [head])


def test_one_connection_is_enough(fault_server, image, reply, new_client) -> None:
    image.serve(fault_server, "tool", "1")
    with_tokens(fault_server, reply, "/v2/tool/manifests/1")
    new_client().resolve(tool(fault_server))
    assert [seen.method for seen in fault_server.seen] == ["HEAD", "GET", "HEAD"]
    assert len({seen.connection for seen in fault_server.seen}) == 1


def test_a_connection_with_something_left_on_it_is_not_used_again(fault_server, reply, brief) -> None:
    fault_server.on("/x", reply(200, b"x" * 100_000))
    address = brief.address(f"{fault_server.url}/x")
    for _ in range(2):
        with brief.exchange("GET", address, {}, None, 5.0) as answer:
            assert next(answer.iter_raw())
    for _ in range(2):
        with brief.exchange("GET", address, {}, None, 5.0) as answer:
            assert b"".join(answer.iter_raw()) == b"x" * 100_000
    brief.close()
    first, second, third, fourth = (seen.connection for seen in fault_server.seen)
    assert len({first, second, third}) == 3
    assert third == fourth


def test_a_token_that_is_cut_is_asked_for_again(fault_server, image, reply, new_client) -> None:
    image.serve(fault_server, "tool", "1")
    with_tokens(fault_server, reply, "/v2/tool/manifests/1")
    token = reply(200, b'{"token": "sesame"}   ')
    fault_server.on("/token", [reply(200, token.body, cut=len(token.body) - 2), token])
    assert new_client().resolve(tool(fault_server)).digest == image.digest
    assert len(fault_server.paths()) == 2


@pytest.fixture
def slow_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited goes on before the thread that ended the wait does."""

    def end(*arguments: Any) -> None:
        hang_up(*arguments)
        time.sleep(0.2)

    hang_up = brief_requests._hang_up
    monkeypatch.setattr(brief_requests, "_hang_up", end)


@contextmanager
def endless_server(begins: bytes, goes_on: bytes) -> Iterator[str]:
    """Its answer never ends. The address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):
                connection.sendall(begins)
                while not over.wait(0.005):
                    connection.sendall(goes_on)

        over, thread = threading.Event(), threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            over.set()
            thread.join(10)


@pytest.mark.usefixtures("slow_to_end")
@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"HTTP/1.1 200 ", b"a"), (b"HTTP/1.1 200 OK\r\nX: ", b"a")],
    ids=["interim answers", "a line", "a header"],
)
def test_an_answer_that_never_begins_is_given_up(begins: bytes, goes_on: bytes) -> None:
    """There always comes something, so that no wait for a single byte is too long."""
    impatient = BriefClient(RegistrySettings(), TransferPolicy(small_deadline=0.2))
    with (
        endless_server(begins, goes_on) as url,
        pytest.raises(RetryableError, match=r"the connection to 127\.0\.0\.1 broke"),
        impatient.exchange("HEAD", impatient.address(url), {}, None, 0.1),
    ):
        pytest.fail("it has not answered")


@pytest.mark.usefixtures("slow_to_end")
@pytest.mark.parametrize(
    ("headers", "goes_on"), [(b"", b"a"), (b"Transfer-Encoding: chunked\r\n", b"1\r\na\r\n")], ids=["plain", "chunked"]
)
def test_a_body_without_a_length_that_never_ends_is_given_up(headers: bytes, goes_on: bytes) -> None:
    """The end of the connection would be a body's sound end, had the registry ended it."""
    impatient = BriefClient(RegistrySettings(), TransferPolicy(small_deadline=0.2))
    with (
        endless_server(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n", goes_on) as url,
        impatient.exchange("GET", impatient.address(url), {}, None, 0.1) as answer,
        pytest.raises(RetryableError, match=r"the connection to 127\.0\.0\.1 broke"),
    ):
        for _ in answer.iter_raw():
            pass


def test_several_headers_of_one_name_are_all_seen(fault_server, reply, brief) -> None:
    fault_server.on("/x", reply(200, headers={"A": "1", "a": "2"}))
    with brief.exchange("HEAD", brief.address(f"{fault_server.url}/x"), {}, None, 5.0) as answer:
        assert answer.headers.get_list("a") == ["1", "2"]
        assert answer.headers.get("A") == "1, 2"
        assert answer.headers.get("b", "none") == "none"
    brief.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://user@example.org/",
        "http://Example.org/",
        "http://ex_ample.org/",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://example.org/a b",
        "http://example.org/\r\nHost: other",
        "http://example.org#/",
        "ftp://example.org/",
        "http://bücher.example/",
    ],
)
def test_addresses_that_may_be_read_in_two_ways_are_left_to_others(brief, url) -> None:
    assert brief.address(url) is None


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("http://example.org", "example.org", 80, "/"),
        ("https://example.org/v2/a/manifests/1?x=y", "example.org", 443, "/v2/a/manifests/1?x=y"),
        ("https://[::1]:5000/v2/", "::1", 5000, "/v2/"),
    ],
)
def test_plain_addresses_are_taken_apart(brief, url, host, port, target) -> None:
    address = brief.address(url)
    assert (address.host, address.port, address.target, str(address)) == (host, port, target, url)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_where_there_is_a_proxy_only_loopback_is_asked_directly(brief, monkeypatch, name) -> None:
    monkeypatch.setenv(name, "http://proxy.example:3128")
    assert brief.address("http://example.org/") is None
    assert brief.address("http://127.0.0.1:5000/") is not None
