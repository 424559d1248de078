"""Brief requests, over the standard library's client.

It is imported in a tenth of the time that httpx takes, and a cached build asks no more of a registry than what a tag
stands for.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from engine.images.failures import broken, unreachable
from engine.images.policy import RegistrySettings, TransferPolicy, Trust, is_loopback
from engine.images.watch import Watch
from machinefile.values import dataclass

if TYPE_CHECKING:
    from email.message import Message
    from http.client import HTTPConnection, HTTPResponse
    from ssl import SSLContext

MAX_SENT = 1 << 15
"""Bytes of a brief request's body."""

_ADDRESS = re.compile(r"(https?)://([a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::(\d{1,5}))?(/[!-~]*)?")
"""Addresses that every parser reads alike; others are httpx's."""
_PROXIES = frozenset({"http_proxy", "https_proxy", "all_proxy"})
_CHUNK = 1 << 14


class Headers(Protocol):
    """An answer's headers; names in any case."""

    def get(self, key: str, default: str = "", /) -> str:
        """A header's value; of several, all with commas between them."""
        ...

    def get_list(self, key: str, /) -> list[str]:
        """Every value of a header."""
        ...


class Address(Protocol):
    """Where an answer comes from; `str` gives all of it."""

    @property
    def host(self) -> str:
        """Without the port."""
        ...


class Answer(Protocol):
    """An answer whose body is still to be read: what httpx.Response and BriefAnswer have in common."""

    @property
    def status_code(self) -> int:
        """Source: RFC 9110, 15."""
        ...

    @property
    def headers(self) -> Headers: ...

    @property
    def url(self) -> Address: ...

    def iter_raw(self) -> Iterator[bytes]:
        """The body in parts."""
        ...


@dataclass(frozen=True, slots=True)
class BriefHeaders:
    """See Headers."""

    message: Message

    def get(self, key: str, default: str = "", /) -> str:
        """See Headers."""
        return ", ".join(self.get_list(key)) or default

    def get_list(self, key: str, /) -> list[str]:
        """See Headers."""
        return [str(value) for value in self.message.get_all(key, ())]


@dataclass(frozen=True, slots=True)
class BriefAddress:
    """See Address."""

    text: str
    secure: bool
    host: str
    port: int
    target: str
    """Path and query."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class BriefAnswer:
    """See Answer."""

    status_code: int
    headers: BriefHeaders
    url: BriefAddress
    response: HTTPResponse
    watch: Watch

    def iter_raw(self) -> Iterator[bytes]:
        """See Answer. Raises TransferError and RetryableError."""
        from http.client import IncompleteRead

        with _translated(self.url.host, self.watch):
            # read1: what has come, however little, so that whoever reads can look at the clock.
            while part := self.response.read1(_CHUNK):
                yield part
            if self.response.length:  # of which read1 says nothing
                raise IncompleteRead(b"", self.response.length)


class BriefClient:
    """Speaks HTTP/1.1 without proxies and redirects, on connections that are kept; many threads may share one."""

    def __init__(self, settings: RegistrySettings, policy: TransferPolicy, cancelled: threading.Event) -> None:
        self._settings = settings
        self._policy = policy
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._idle: dict[tuple[bool, str, int], HTTPConnection] = {}
        self._contexts: dict[Trust, SSLContext] = {}

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            idle = list(self._idle.values())
            self._idle.clear()
        for connection in idle:
            connection.close()

    def address(self, url: str) -> BriefAddress | None:
        """The address if it can be asked here: a plain one, and no proxy before it."""
        found = _ADDRESS.fullmatch(url)
        if found is None:
            return None
        scheme, host, port, _ = found.groups()
        host = host.strip("[]")
        if not is_loopback(host) and any(value and name.lower() in _PROXIES for name, value in os.environ.items()):
            return None
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        number = int(port) if port else 443 if scheme == "https" else 80
        return BriefAddress(url, scheme == "https", host, number, target) if 0 < number < 1 << 16 else None

    @contextmanager
    def exchange(
        self, method: str, address: BriefAddress, headers: Mapping[str, str], content: bytes | None, patience: float
    ) -> Iterator[BriefAnswer]:
        """Send a request; the answer's body is not read yet. `patience` is how long, in seconds, nothing may come; the
        whole exchange may take that and the policy's `small_deadline`, also where there always comes a little.

        Raises TransferError (`registry-unreachable`, `registry-untrusted-certificate`, `registry-unauthorized`),
        UsageError (`registry-config-invalid`), RetryableError, InterruptedBuildError.
        """
        connection, keep = self._take(address), False
        watch = Watch(self._cancelled, patience + self._policy.small_deadline)
        watch.follow(connection.sock)  # the client lets go of it where the answer's end is the connection's
        try:
            with watch:
                watch.begin()
                with _translated(address.host, watch):
                    connection.sock.settimeout(patience)
                    connection.request(method, address.target, body=content, headers=dict(headers))
                    response = connection.getresponse()
                yield BriefAnswer(response.status, BriefHeaders(response.headers), address, response, watch)
                if not response.length and not response.chunked:
                    response.read()  # nothing, but only then does it give its connection back
                keep = response.isclosed() and not response.will_close
        finally:
            self._give_back(address, connection, keep=keep and not watch.late)

    def _take(self, address: BriefAddress) -> HTTPConnection:
        with self._lock:
            kept = self._idle.pop(_origin(address), None)
        if kept is not None:
            return kept
        from http.client import HTTPConnection

        patience = self._policy.connect_timeout
        if address.secure:
            made = self._secure(address, patience)
        else:
            made = HTTPConnection(address.host, address.port, timeout=patience)
        try:
            made.connect()
        except OSError as error:
            raise unreachable(address.host, error) from error
        return made

    def _secure(self, address: BriefAddress, patience: float) -> HTTPConnection:
        from http.client import HTTPSConnection

        from engine.images import tls

        host = f"[{address.host}]" if ":" in address.host else address.host
        trust = self._settings.trust(host if address.port == 443 else f"{host}:{address.port}")
        with self._lock:
            if trust not in self._contexts:
                self._contexts[trust] = tls.context(trust, http2=False)
        return HTTPSConnection(address.host, address.port, timeout=patience, context=self._contexts[trust])

    def _give_back(self, address: BriefAddress, connection: HTTPConnection, *, keep: bool) -> None:
        with self._lock:
            if keep and _origin(address) not in self._idle:
                self._idle[_origin(address)] = connection
                return
        connection.close()


@contextmanager
def _translated(host: str, watch: Watch) -> Iterator[None]:
    from http.client import HTTPException

    try:
        with watch.over():
            yield
    except (OSError, HTTPException) as error:
        raise broken(host, error) from error


def _origin(address: BriefAddress) -> tuple[bool, str, int]:
    return address.secure, address.host, address.port
