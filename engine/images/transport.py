"""One HTTP exchange: clients, proxies, certificates, redirects, and httpx's errors turned into ours."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from engine.images.policy import RegistrySettings, TransferPolicy, Trust, is_loopback
from engine.images.retry import RetryableError, retry_after
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError, UsageError

if TYPE_CHECKING:
    import httpx

Content = bytes | Callable[[], Iterable[bytes]] | None
"""What a request carries; a function gives it anew each time it must be sent."""

_MAX_REDIRECTS = 5
_MAX_CONNECTIONS = 16
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
        self._lock = threading.Lock()
        self._clients: dict[tuple[bool, Trust | None], httpx.Client] = {}
        self._held = ExitStack()

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clients.clear()
        self._held.close()

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
    ) -> Iterator[httpx.Response]:
        """Send a request and follow redirects; the answer's body is not read yet.

        `authorization` goes to the first host alone. `patience`, in seconds, is for an answer that may take longer
        than the policy has it. Raises TransferError (`registry-failed`,
        `registry-untrusted-certificate`), and RetryableError for what may pass.
        """
        import httpx

        current = self._parsed(url)
        first = current
        with ExitStack() as stack:
            for _ in range(_MAX_REDIRECTS + 1):
                sent = {"User-Agent": "mbuild", "Accept-Encoding": "identity", **(headers or {})}
                if authorization and _origin(current) == _origin(first):
                    sent["Authorization"] = authorization
                with _translated(current.host):
                    client = self._client(current)
                    body = content() if callable(content) else content
                    request = client.build_request(
                        method, current, headers=sent, content=body, timeout=self._timeout(patience)
                    )
                    response = client.send(request, stream=True)
                stack.callback(_close, response)
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or not location:
                    with _translated(current.host):
                        yield response
                    return
                try:
                    current = self._checked(first, current.join(location))
                except httpx.InvalidURL as error:
                    raise _bad_redirect(first, "to what is not an address") from error
            raise _bad_redirect(first, "without end")

    def follow(self, response: httpx.Response, location: str) -> str:
        """The address that an answer's Location means, under the rules for redirects. Raises TransferError."""
        import httpx

        try:
            return str(self._checked(response.url, response.url.join(location)))
        except httpx.InvalidURL as error:
            raise _bad_redirect(response.url, "to what is not an address") from error

    def is_at(self, registry: str, url: str) -> bool:
        """Whether an address is the registry's own: the same scheme, host and port."""
        return _origin(self._parsed(url)) == _origin(self._parsed(self.origin(registry)))

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
        if left_tls and not self.settings.is_plain(_authority(target)):
            raise _bad_redirect(first, f"from TLS to plain HTTP on {target.host}")
        return target.copy_with(userinfo=b"")

    def _client(self, url: httpx.URL) -> httpx.Client:
        """Loopback never goes through a proxy, and TLS is set up (20 ms) only where it is used."""
        local = is_loopback(url.host)
        trust = self.settings.trust(_authority(url)) if url.scheme == "https" else None
        with self._lock:
            client = self._clients.get((local, trust))
            if client is None:
                # A context without certificates trusts nobody: right for a client that never speaks TLS.
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if trust is None else _context(trust)
                client = self._held.enter_context(self._new_client(context, proxied=not local))
                self._clients[local, trust] = client
            return client

    def _timeout(self, patience: float | None = None) -> httpx.Timeout:
        import httpx

        read = patience or self.policy.read_timeout
        return httpx.Timeout(self.policy.read_timeout, read=read, connect=self.policy.connect_timeout)

    def _new_client(self, context: ssl.SSLContext, *, proxied: bool) -> httpx.Client:
        import httpx

        try:
            return httpx.Client(
                verify=context,
                trust_env=proxied,
                # Threads that share one HTTP/2 connection of httpcore's can end up waiting for one another, each for
                # what another has read (seen with uploads in parallel to a registry behind TLS).
                http2=False,
                timeout=self._timeout(),
                limits=httpx.Limits(max_connections=_MAX_CONNECTIONS),
                follow_redirects=False,
            )
        except (ValueError, ImportError) as error:  # httpx's words for a proxy variable it cannot use
            raise TransferError(
                f"the proxy settings cannot be used: {error}",
                code="proxy-invalid",
                hint="check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY",
            ) from error

    def read(self, response: httpx.Response, limit: int, what: str) -> bytes:
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
                raise RetryableError(_failed(f"{what} did not arrive in {self.policy.small_deadline:g} s"))
        return b"".join(parts)

    def failure(self, response: httpx.Response, what: str) -> TransferError | RetryableError:
        """What to raise for an answer that is neither a success nor about authorization."""
        status = response.status_code
        said = self.quote(response)
        error = _failed(f"{response.url.host} answered {status} to the request for {what}{said}")
        if status == 429:
            error.hint = "the registry limits how much it serves: log in, or wait, or use a mirror"
        if status == 429 or status >= 500 or status == 408:
            return RetryableError(error, wait=retry_after(response.headers.get("retry-after", "")))
        return error

    def quote(self, response: httpx.Response) -> str:
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


def _context(trust: Trust) -> ssl.SSLContext:
    context = _system_context()
    for file in trust.authorities:
        try:
            context.load_verify_locations(cafile=file)
        except OSError as error:  # ssl.SSLError is one
            reason = "no certificate in PEM is in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise UsageError(
                f"the certificate {file} cannot be used: {reason}",
                code="registry-config-invalid",
                hint="mend the file, or the configuration of registries that names it",
            ) from error
    if not trust.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _system_context() -> ssl.SSLContext:
    """The system's certificates, or SSL_CERT_FILE's; certifi's where the system has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return ssl.create_default_context()
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


@contextmanager
def _translated(host: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
        raise _unreachable(host, error) from error
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
        reason = str(error) or "no answer in time"
        raise RetryableError(_failed(f"the connection to {host} broke: {reason}")) from error
    except httpx.HTTPError as error:
        raise _failed(f"{host} cannot be asked: {error}") from error


def _unreachable(host: str, error: Exception) -> TransferError | RetryableError:
    text = str(error) or "no answer in time"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return TransferError(
            f"the certificate of {host} is not trusted: {text}",
            code="registry-untrusted-certificate",
            hint="put its authority's certificate into a file and name that as ca in registries.toml, "
            "or in SSL_CERT_FILE",
        )
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text:
        return TransferError(
            f"{host} does not speak TLS",
            code="registry-unreachable",
            hint="if it may be trusted in plain HTTP, say plain-http = true in registries.toml, "
            "or name it in MBUILD_INSECURE_REGISTRIES",
        )
    unreachable = TransferError(
        f"{host} cannot be reached: {text}",
        code="registry-unreachable",
        hint="check the name, the network and the proxy settings",
    )
    return RetryableError(unreachable, connecting=True)


def _failed(message: str) -> TransferError:
    return TransferError(message, code="registry-failed", hint="try again, or ask who runs the registry")


def _bad_redirect(first: httpx.URL, how: str) -> TransferError:
    return TransferError(f"{first.host} redirects {how}", code="registry-failed")


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _authority(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port}" if url.port else host


def _close(response: httpx.Response) -> None:
    response.close()
