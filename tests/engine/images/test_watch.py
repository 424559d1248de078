"""Exchanges that would never end: there always comes something, so that no wait for a single read is too long."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from endless_server import endless_server
from http2_server import Answer, Http2Server

from engine.images import watch
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.registry_config import RegistryEntry
from engine.images.retry import RetryableError
from engine.images.transport import Transport
from machinefile.errors import InterruptedBuildError

IMPATIENT = TransferPolicy(read_timeout=0.2, small_deadline=0.2)
PATIENT = TransferPolicy(read_timeout=1000, small_deadline=1000)
Ask = Callable[..., AbstractContextManager[Any]]

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["exchange", "brief"])
def how(request: pytest.FixtureRequest) -> str:
    """With httpx, or without it."""
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def slow_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited goes on before the thread that ended the wait does."""

    def end(*arguments: Any) -> None:
        hang_up(*arguments)
        time.sleep(0.2)

    hang_up = watch._hang_up
    monkeypatch.setattr(watch, "_hang_up", end)


def read(ask: Ask, url: str) -> bytes:
    with ask("GET", url) as answer:
        return b"".join(answer.iter_raw())


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"HTTP/1.1 200 ", b"a"), (b"HTTP/1.1 200 OK\r\nX: ", b"a")],
    ids=["interim answers", "a line", "a header"],
)
def test_an_answer_that_never_begins_is_given_up(how: str, begins: bytes, goes_on: bytes) -> None:
    with (
        endless_server(begins, goes_on) as url,
        Transport(RegistrySettings(), IMPATIENT) as transport,
        pytest.raises(RetryableError, match=r"the connection to 127\.0\.0\.1 broke"),
        getattr(transport, how)("HEAD", url),
    ):
        pytest.fail("it has not answered")


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("how", "begins", "goes_on"),
    [
        ("brief", b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
        ("brief", CHUNKED, b"1\r\na\r\n"),
        ("brief", CHUNKED + b"1;", b"a"),
        ("exchange", CHUNKED + b"1;", b"a"),
    ],
    ids=["no length", "chunks", "a chunk's head", "a chunk's head, with httpx"],
)
def test_a_body_that_never_ends_is_given_up(how: str, begins: bytes, goes_on: bytes) -> None:
    """The end of the connection would be a body's sound end, had the registry ended it. Of a body that httpx reads, its
    readers look at how much has come."""
    with (
        endless_server(begins, goes_on) as url,
        Transport(RegistrySettings(), IMPATIENT) as transport,
        pytest.raises(RetryableError, match=r"the connection to 127\.0\.0\.1 broke"),
    ):
        read(getattr(transport, how), url)


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"], ids=["head", "body"])
def test_who_wants_to_stop_need_not_wait_for_an_answer(how: str, begins: bytes) -> None:
    asked, cancelled = threading.Event(), threading.Event()

    def stop() -> None:
        assert asked.wait(20)
        cancelled.set()

    stopping = threading.Thread(target=stop)
    stopping.start()
    with (
        endless_server(begins, b"", asked=asked) as url,
        Transport(RegistrySettings(), PATIENT, cancelled) as transport,
        pytest.raises(InterruptedBuildError),
    ):
        read(getattr(transport, how), url)
    stopping.join(20)


def test_who_takes_long_over_a_part_is_not_given_up() -> None:
    """It is the answer that is waited for, not whoever reads it."""
    parts: list[bytes] = []
    with (
        endless_server(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b"a") as url,
        Transport(RegistrySettings(), TransferPolicy(read_timeout=1, small_deadline=0.1)) as transport,
        transport.exchange("GET", url) as answer,
    ):
        for part in answer.iter_raw():
            if not parts:
                time.sleep(1.5)
            parts.append(part)
    assert sum(map(len, parts)) == 100


@pytest.fixture
def pinging(certificate: tuple[Path, Path]) -> Iterator[Http2Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    with Http2Server(context, lambda asked: Answer(pings=True)) as server:
        yield server


def test_a_server_that_only_says_that_it_is_there_is_given_up(
    pinging: Http2Server, certificate: tuple[Path, Path]
) -> None:
    entry = RegistryEntry(pinging.address, plain_http=False, ca=(certificate[1],))
    with (
        Transport(RegistrySettings(entries=(entry,)), IMPATIENT) as transport,
        pytest.raises(RetryableError, match=r"the connection to 127\.0\.0\.1 broke"),
        transport.exchange("GET", f"https://{pinging.address}/v2/"),
    ):
        pytest.fail("it has not answered")
    assert len(pinging.seen) == 1
