"""Brief requests, which need no httpx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.images.brief import BriefClient
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.reference import Reference

BUILD = """
import json, sys
from mbuild.__main__ import main
code = main(sys.argv[1:])
print()
print(json.dumps([code, [name for name in ("httpx", "http.client") if name in sys.modules]]))
"""


@pytest.fixture
def brief() -> BriefClient:
    return BriefClient(RegistrySettings(), TransferPolicy(), threading.Event())


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
