"""httpx's clients, each lent to one exchange at a time."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.images import tls
from engine.images.policy import RegistrySettings, Trust, is_loopback
from engine.images.retry import RetryableError
from engine.images.watch import Watch
from machinefile.errors import InterruptedBuildError, TransferError
from machinefile.values import dataclass

if TYPE_CHECKING:
    import httpx

    from engine.images.line import Line

_MOST = 16
"""Exchanges at a time; nobody who has a client may wait for a second one."""
_WAIT = 600.0
"""Seconds for one of them to end: they may be long, and each has limits of its own."""
_POLL = 0.1
_LEFTOVERS = 1 << 16
"""Bytes of an answer that are read only to keep the connection: more is not worth it."""
_LEFTOVER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Kind:
    """What clients must have in common to stand in for one another."""

    origin: tuple[str, str, int | None]
    proxied: bool
    trust: Trust | None
    http2: bool


class Clients:
    """Lends clients, and keeps those that come back in order.

    A connection carries one exchange at a time, HTTP/2 or not. Threads that share one of httpcore's HTTP/2 connections
    read for one another, and can end up waiting for one another; and an answer that nobody reads to its end keeps
    what it was granted of the connection's flow-control window, until there is nothing left for others.
    """

    def __init__(self, settings: RegistrySettings, cancelled: threading.Event) -> None:
        self._settings = settings
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(_MOST)
        self._idle: dict[_Kind, list[Line]] = {}
        self._contexts: dict[tuple[Trust, bool], ssl.SSLContext] = {}
        self._closed = False

    def close(self) -> None:
        """Close what is idle now, and the others as they come back."""
        with self._lock:
            self._closed = True
            idle = [line for lines in self._idle.values() for line in lines]
            self._idle.clear()
        for line in idle:
            line.close()

    @contextmanager
    def exchange(self, request: httpx.Request, *, bulk: bool, patience: float) -> Iterator[httpx.Response]:
        """Send a request; the answer's body is not read yet. `bulk` asks for HTTP/1.1, whatever the server offers.
        `patience` is how many seconds the headers, or a part of the body, may take to come, in however small pieces.

        Raises what httpx raises, RetryableError when too many exchanges are under way, TransferError
        (`proxy-invalid`), UsageError (`registry-config-invalid`), InterruptedBuildError.
        """
        kind = self._kind(request.url, bulk=bulk)
        self._wait()
        try:
            line, keep = self._take(kind), False
            watch = Watch(self._cancelled, patience)
            try:
                with line.exchange(request, watch) as response:
                    yield response
                    keep = _is_spent(response)
            finally:
                self._give_back(kind, line, keep=keep and not watch.late)
        finally:
            self._free.release()

    def _kind(self, url: httpx.URL, *, bulk: bool) -> _Kind:
        """Loopback never goes through a proxy, and TLS and HTTP/2 are loaded only where they are used."""
        secure = url.scheme == "https"
        trust = self._settings.trust(authority(url)) if secure else None
        return _Kind((url.scheme, url.host, url.port), not is_loopback(url.host), trust, secure and not bulk)

    def _wait(self) -> None:
        until = time.monotonic() + _WAIT
        while not self._free.acquire(timeout=_POLL):
            if self._cancelled.is_set():
                raise InterruptedBuildError
            if time.monotonic() > until:
                message = f"{_MOST} requests are under way, and none of them ends"
                raise RetryableError(TransferError(message, code="registry-failed", hint="try again"))

    def _take(self, kind: _Kind) -> Line:
        with self._lock:
            idle = self._idle.get(kind)
            if idle:
                return idle.pop()
            context = self._context(kind)
        return _new_line(context, kind)

    def _context(self, kind: _Kind) -> ssl.SSLContext:
        if kind.trust is None:
            return tls.nobody()
        key = (kind.trust, kind.http2)
        if key not in self._contexts:
            self._contexts[key] = tls.context(kind.trust, http2=kind.http2)
        return self._contexts[key]

    def _give_back(self, kind: _Kind, line: Line, *, keep: bool) -> None:
        surplus = line
        with self._lock:
            if keep and not self._closed:
                idle = self._idle.setdefault(kind, [])
                idle.append(line)
                if sum(map(len, self._idle.values())) <= _MOST:
                    return
                surplus = self._longest_idle()
        surplus.close()

    def _longest_idle(self) -> Line:
        """Of any kind, as far as this is known: kinds are in the order of their first use."""
        kind = next(kind for kind, lines in self._idle.items() if lines)
        line = self._idle[kind].pop(0)
        if not self._idle[kind]:
            del self._idle[kind]
        return line


def authority(url: httpx.URL) -> str:
    """`HOST` or `HOST:PORT`, as registries are called."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port}" if url.port else host


def _new_line(context: ssl.SSLContext, kind: _Kind) -> Line:
    import httpx

    from engine.images.line import Line

    try:
        client = httpx.Client(
            verify=context,
            trust_env=kind.proxied,
            http2=kind.http2,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            follow_redirects=False,
        )
    except (ValueError, ImportError) as error:  # httpx's words for a proxy variable it cannot use
        raise TransferError(
            f"the proxy settings cannot be used: {error}",
            code="proxy-invalid",
            hint="check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY",
        ) from error
    return Line(client)


def _is_spent(response: httpx.Response) -> bool:
    """Whether nothing of the answer is left on its connection; a little is read for that."""
    if response.is_closed:  # httpx closes what was read to its end
        return True
    if response.is_stream_consumed or not _is_short(response):
        return False
    response.request.extensions["timeout"]["read"] = _LEFTOVER_SECONDS
    until, length = time.monotonic() + _LEFTOVER_SECONDS, 0
    try:
        for part in response.iter_raw():
            length += len(part)
            if length > _LEFTOVERS or time.monotonic() > until:
                return False
    except Exception:  # whatever it is, it came after all that anybody wanted to know
        return False
    return True


def _is_short(response: httpx.Response) -> bool:
    if response.request.method == "HEAD" or response.status_code in (204, 304):
        return True
    length = response.headers.get("content-length", "")
    return length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= _LEFTOVERS
