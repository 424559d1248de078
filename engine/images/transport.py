"""One HTTP exchange: what is sent, redirects, and httpx's errors turned into ours."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from engine.images.brief import MAX_SENT, Answer, BriefClient
from engine.images.clients import Clients, authority
from engine.images.failures import failed, translated
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.retry import RetryableError, retry_after
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError

if TYPE_CHECKING:
    import httpx

Content = bytes | Callable[[], Iterable[bytes]] | None
"""What a request carries; a function gives it anew each time it must be sent."""

BULK = 1 << 20
"""Bytes: bodies longer than this come and go over HTTP/1.1. httpcore's HTTP/2 takes twice the processor time for them,
and sends no faster than the server grants: often a megabyte for each round trip."""

_MAX_REDIRECTS = 5
_USUAL = {"User-Agent": "mbuild", "Accept": "*/*", "Accept-Encoding": "identity"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTROL = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]+")
_LONGEST_QUOTE = 300


class Transport:
    """Sends requests and gives answers as streams; a context manager. Many threads may share one."""

    def __init__(
        self, settings: RegistrySettings, policy: TransferPolicy, cancelled: threading.Event | None = None
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.cancelled = cancelled or threading.Event()
        self._clients = Clients(settings, self.cancelled)
        self._brief = BriefClient(settings, policy, self.cancelled)
        self._is_long = False

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._brief.close()
        self._clients.close()

    def origin(self, registry: str) -> str:
        """Where a registry's API stands: scheme and host."""
        return f"{'http' if self.settings.is_plain(registry) else 'https'}://{registry}"

    @contextmanager
    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str = "",
        content: Content = None,
        patience: float | None = None,
        bulk: bool = False,
        may_ask: Callable[[str], bool] | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request and follow redirects; the answer's body is not read yet.

        `authorization` goes to the first host alone. `patience`, in seconds, is for an answer that may take longer
        than the policy has it. `bulk` says that the answer may be longer than BULK. `may_ask` is told each host, also
        those of redirects, before it is asked, and may refuse it. Within an exchange no thread may begin a second
        one. Raises TransferError (`registry-failed`, `registry-untrusted-certificate`), and
        RetryableError for what may pass.
        """
        import httpx

        self._is_long = True
        first = current = self._parsed(url)
        # Long bodies go over HTTP/1.1 too. They could fill HTTP/2's first flow-control window (65,535 bytes), and
        # httpcore, waiting for more of it, does not see an answer that comes before the body's end.
        long = callable(content) or len(content or b"") > MAX_SENT
        for _ in range(_MAX_REDIRECTS + 1):
            if may_ask is not None and not may_ask(current.host):
                raise _bad_redirect(first, f"to {current.host}, which is not asked")
            sent = {**_USUAL, **(headers or {})}
            if authorization and _origin(current) == _origin(first):
                sent["Authorization"] = authorization
            request = httpx.Request(
                method,
                current,
                headers=sent,
                content=content() if callable(content) else content,
                extensions={"timeout": self._timeouts(patience)},
            )
            asked = self._clients.exchange(request, bulk=bulk or long, patience=self._whole(patience))
            with translated(current.host), asked as response:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or not location:
                    yield response
                    return
                try:
                    current = self._checked(first, current.join(location))
                except httpx.InvalidURL as error:
                    raise _bad_redirect(first, "to what is not an address") from error
        raise _bad_redirect(first, "without end")

    @contextmanager
    def brief(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str = "",
        content: bytes | None = None,
        patience: float | None = None,
    ) -> Iterator[Answer]:
        """As `exchange`, of little to send and little to hear, that can be asked twice.

        Without httpx as long as nothing has needed it: afterwards its connections are there already.
        """
        address = self._brief.address(url) if not self._is_long and len(content or b"") <= MAX_SENT else None
        if address is not None:
            sent = {**_USUAL, **(headers or {}), **({"Authorization": authorization} if authorization else {})}
            wait = patience or self.policy.read_timeout
            with self._brief.exchange(method, address, sent, content, wait) as answer:
                if answer.status_code not in _REDIRECTS:
                    yield answer
                    return
        asked = self.exchange(
            method, url, headers=headers, authorization=authorization, content=content, patience=patience
        )
        with asked as response:
            yield response

    def follow(self, response: httpx.Response, location: str) -> str:
        """The address that an answer's Location means, under the rules for redirects. Raises TransferError."""
        import httpx

        try:
            return str(self._checked(response.url, response.url.join(location)))
        except httpx.InvalidURL as error:
            raise _bad_redirect(response.url, "to what is not an address") from error

    def is_at(self, registry: str, url: str) -> bool:
        """Whether an address is the registry's own: the same scheme, host and port."""
        origin = self.origin(registry)
        return url.startswith(f"{origin}/") or _origin(self._parsed(url)) == _origin(self._parsed(origin))

    def _parsed(self, url: str) -> httpx.URL:
        import httpx

        try:
            return httpx.URL(url)
        except httpx.InvalidURL as error:
            raise TransferError(f"{url[:200]!r} is not an address: {error}", code="registry-failed") from error

    def _checked(self, first: httpx.URL, target: httpx.URL) -> httpx.URL:
        """A redirect may not leave TLS, nor HTTP altogether."""
        if target.scheme not in ("http", "https") or not target.host:
            raise _bad_redirect(first, f"to {str(target)[:200]!r}")
        left_tls = first.scheme == "https" and target.scheme == "http"
        if left_tls and not self.settings.is_plain(authority(target)):
            raise _bad_redirect(first, f"from TLS to plain HTTP on {target.host}")
        return target.copy_with(userinfo=b"")

    def _whole(self, patience: float | None) -> float:
        """Seconds that headers, or a part of a body, may take to come, in however small pieces."""
        return (patience or self.policy.read_timeout) + self.policy.small_deadline

    def _timeouts(self, patience: float | None) -> dict[str, float]:
        """As httpx hands them to httpcore."""
        usual, connect = self.policy.read_timeout, self.policy.connect_timeout
        return {"connect": connect, "read": patience or usual, "write": usual, "pool": connect}

    def read(self, response: Answer, limit: int, what: str) -> bytes:
        """The whole of a small body. Raises UntrustedDataError (`answer-too-long`) beyond `limit` bytes, and
        RetryableError when it takes longer than the policy allows."""
        deadline = time.monotonic() + self.policy.small_deadline
        parts: list[bytes] = []
        length = 0
        for part in response.iter_raw():
            parts.append(part)
            length += len(part)
            if length > limit:
                raise UntrustedDataError(f"{what} is longer than {limit} bytes", code="answer-too-long")
            if self.cancelled.is_set():
                raise InterruptedBuildError
            if time.monotonic() > deadline:
                raise RetryableError(failed(f"{what} did not arrive in {self.policy.small_deadline:g} s"))
        return b"".join(parts)

    def failure(self, response: Answer, what: str) -> TransferError | RetryableError:
        """What to raise for an answer that is neither a success nor about authorization."""
        status = response.status_code
        said = self.quote(response)
        error = failed(f"{response.url.host} answered {status} to the request for {what}{said}")
        if status == 429:
            error.hint = "the registry limits how much it serves: log in, or wait, or use a mirror"
        if status == 429 or status >= 500 or status == 408:
            return RetryableError(error, wait=retry_after(response.headers.get("retry-after", "")))
        return error

    def quote(self, response: Answer) -> str:
        """What the registry says about its refusal, made safe to print; empty when it says nothing."""
        try:
            data = self.read(response, 1 << 16, "an error")
        except (UntrustedDataError, RetryableError):
            return ""
        text = _CONTROL.sub(" ", _message(data)).strip()
        return f": {text[:_LONGEST_QUOTE]}" if text else ""


def _message(data: bytes) -> str:
    import json

    try:
        first = json.loads(data)["errors"][0]
        return str(first.get("message") or first.get("code") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return ""


def _bad_redirect(first: httpx.URL, how: str) -> TransferError:
    return TransferError(f"{first.host} redirects {how}", code="registry-failed")


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)
