"""Files over HTTP: asked for anew each time, fetched only when they changed, kept as blobs of the store."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC
from typing import TYPE_CHECKING

from cache.blobs import BlobWriter
from cache.index import Kind
from cache.store import Store
from engine.events import Note, Observer, TransferProgress
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.retry import Attempts, RetryableError
from engine.layers.times import bounded
from engine.remote.weburl import file_name, without_password
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.values import dataclass

if TYPE_CHECKING:
    import httpx

    _Exchange = Callable[[str, Mapping[str, str]], AbstractContextManager[httpx.Response]]

_EVENT_SECONDS = 0.1
_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)", re.ASCII)
_LONGEST_HEADER = 1024
_CODES = {
    "registry-failed": ("remote-failed", "try again, or ask who runs the server"),
    "registry-unreachable": ("remote-unreachable", "check the address, the network and the proxy settings"),
    "registry-untrusted-certificate": (
        "remote-untrusted-certificate",
        "put its authority's certificate into a file and name that in SSL_CERT_FILE",
    ),
}
"""Errors of the transport speak of registries; ours do not."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the index knows of an address: what was there, and how to ask whether it still is."""

    digest: str
    size: int
    etag: str = ""
    modified: str = ""
    """Last-Modified, as the server wrote it."""

    def to_json(self) -> list[object]:
        """As the index keeps it."""
        return [self.digest, self.size, self.etag, self.modified]

    @classmethod
    def from_json(cls, value: object) -> Remembered | None:
        """None for anything else."""
        match value:
            case [str(digest), int(size), str(etag), str(modified)] if re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                return cls(digest, size, etag, modified)
        return None

    @property
    def conditions(self) -> dict[str, str]:
        """The headers that ask for the content only if it is another one. Source: RFC 9110, 13.1."""
        found = {"If-None-Match": self.etag} if self.etag else {}
        return found | ({"If-Modified-Since": self.modified} if self.modified else {})

    def is_meant_by(self, response: httpx.Response) -> bool:
        """Whether the answer says that nothing has changed; some servers send 200 with the same ETag."""
        if response.status_code == 304:
            return True
        etag = response.headers.get("etag", "").removeprefix("W/")
        return response.status_code == 200 and bool(etag) and etag == self.etag.removeprefix("W/")


class _NoPlainHttp(RegistrySettings):
    """Whatever registries may do: no redirect leads a file from TLS to plain HTTP, not even to this machine."""

    def is_plain(self, registry: str) -> bool:
        return False


class Web:
    """Fetches files. Every method raises TransferError (`remote-unreachable`, `remote-failed`, `remote-missing`,
    `remote-refused`, `remote-too-large`, `remote-changed`), UntrustedDataError (`digest-mismatch`), StoreError, and
    InterruptedBuildError soon after `cancelled` is set."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        cancelled: threading.Event,
        *,
        largest: int,
        policy: TransferPolicy | None = None,
    ) -> None:
        """`largest` is how many bytes a file may have."""
        self._store = store
        self._tell = observer
        self._cancelled = cancelled
        self._largest = largest
        self._policy = policy or TransferPolicy()

    def pin(self, url: str) -> str:
        """The digest of what an address has now. What was there before is fetched again only if it changed."""
        with self._alone(url):
            known = Remembered.from_json(self._store.index.get(Kind.REMOTE, _name(url)))
            return self._fetch(url, known).digest

    def bring(self, url: str, digest: str) -> str:
        """Make sure that the store has the content of this digest, and give the sha256 digest of its blob.

        `digest` is `sha256:`, `sha384:` or `sha512:` and the hex digits; nothing is asked for what is there.
        """
        blob = self._blob(digest)
        if blob and self._store.blobs.is_sound(blob):
            return blob
        with self._alone(url):
            blob = self._blob(digest)
            if not blob or not self._store.blobs.is_sound(blob):
                blob = self._fetch(url, None, expected=digest).digest
        return blob

    def modified(self, url: str, blob: str) -> int:
        """When a blob that came from an address was changed last, as the server said: seconds since 1970. 0 where it
        did not say, as in BuildKit, or the address had something else when it was last asked."""
        known = Remembered.from_json(self._store.index.get(Kind.REMOTE, _name(url)))
        return _seconds(known.modified) if known is not None and known.digest == blob else 0

    def _blob(self, digest: str) -> str:
        if digest.startswith("sha256:"):
            return digest
        known = Remembered.from_json(self._store.index.get(Kind.REMOTE, digest))
        return known.digest if known is not None else ""

    def _fetch(self, url: str, known: Remembered | None, expected: str = "") -> Remembered:
        """Ask, and download unless nothing changed."""
        attempts = Attempts(self._policy, self._cancelled)
        with ExitStack() as stack:
            exchange = stack.enter_context(self._exchanges())
            receiver: _Receiver | None = None
            while True:
                if receiver is not None:
                    headers: Mapping[str, str] = receiver.conditions
                else:
                    headers = known.conditions if known is not None else {}
                try:
                    with exchange(url, headers) as response:
                        if receiver is None and known is not None and known.is_meant_by(response):
                            return known
                        _check_status(response, url, resumed=receiver is not None and receiver.done > 0)
                        if receiver is None:
                            writer = stack.enter_context(self._store.blobs.writer())
                            receiver = _Receiver(url, writer, self._tell, self._policy, self._largest, expected)
                        receiver.take(response, attempts)
                    break
                except RetryableError as failure:
                    if receiver is not None and receiver.has_progressed():
                        attempts.progressed()
                    attempts.failed(failure)
            found = receiver.finish()
        self._store.index.put(Kind.REMOTE, _name(url), found.to_json())
        if expected and not expected.startswith("sha256:"):
            self._store.index.put(Kind.REMOTE, expected, found.to_json())
        return found

    @contextmanager
    def _alone(self, url: str) -> Iterator[None]:
        def waiting() -> None:
            self._tell(Note(f"waiting for another mbuild that fetches {without_password(url)}"))

        with self._store.lock(f"remote {url}", cancelled=self._cancelled, waiting=waiting):
            yield

    @contextmanager
    def _exchanges(self) -> Iterator[_Exchange]:
        from engine.images.transport import Transport  # and with it httpx, only when a server is asked

        with Transport(_NoPlainHttp(), self._policy, self._cancelled) as transport:

            @contextmanager
            def exchange(url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
                try:
                    with transport.exchange("GET", url, headers=headers) as response:
                        if response.status_code in (408, 429) or response.status_code >= 500:
                            raise transport.failure(response, without_password(url))
                        yield response
                except RetryableError as failure:
                    _reword(failure.error)
                    raise
                except TransferError as error:
                    _reword(error)
                    raise

            yield exchange


class _Receiver:
    """A download that may be cut and taken up again."""

    def __init__(
        self, url: str, writer: BlobWriter, observer: Observer, policy: TransferPolicy, largest: int, expected: str
    ) -> None:
        self._url = url
        self._writer = writer
        self._tell = observer
        self._policy = policy
        self._largest = largest
        self._expected = expected
        self._other = hashlib.new(expected.partition(":")[0]) if expected else hashlib.sha256()
        self._etag = ""
        self._modified = ""
        self._total: int | None = None
        self._counted = 0
        self._told = float("-inf")

    @property
    def done(self) -> int:
        """Bytes so far."""
        return self._writer.size

    @property
    def conditions(self) -> dict[str, str]:
        """The headers that ask for the rest, if it is still the rest of the same. Source: RFC 9110, 13.1.5."""
        strong = self._etag if not self._etag.startswith("W/") else ""
        validator = strong or self._modified
        return {"Range": f"bytes={self.done}-", "If-Range": validator} if self.done and validator else {}

    def has_progressed(self) -> bool:
        """Whether enough has come since the last failure for the tries to be counted anew."""
        enough = self.done - self._counted >= self._policy.progress
        self._counted = self.done if enough else min(self._counted, self.done)
        return enough

    def take(self, response: httpx.Response, attempts: Attempts) -> None:
        """Read an answer to its end. Raises RetryableError where it comes too slowly."""
        self._begin(response)
        since, seen = time.monotonic(), 0
        for part in response.iter_raw():
            attempts.check()
            self._writer.write(part)
            self._other.update(part)
            if self.done > self._largest:
                raise self._too_large(self.done)
            seen += len(part)
            now = time.monotonic()
            if now - since > self._policy.read_timeout:
                if seen < self._policy.slowest * self._policy.read_timeout:
                    raise RetryableError(_failed(f"{response.url.host} sends next to nothing"))
                since, seen = now, 0
            if now - self._told >= _EVENT_SECONDS:
                self._progress(finished=False)

    def finish(self) -> Remembered:
        """What was received. Raises UntrustedDataError (`digest-mismatch`)."""
        actual = f"{self._other.name}:{self._other.hexdigest()}"
        if self._expected and actual != self._expected:
            raise UntrustedDataError(
                f"{without_password(self._url)} has the digest {actual}, not {self._expected}",
                code="digest-mismatch",
                hint="what is there has changed, or was tampered with; mend --checksum only if you know why,"
                " or build again if there is none",
            )
        self._progress(finished=True)
        return Remembered(self._writer.digest, self.done, self._etag, self._modified)

    def _begin(self, response: httpx.Response) -> None:
        announced = response.headers.get("content-length", "")
        length = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else None
        if response.status_code == 206:
            match = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if match is None or int(match[1]) != self.done:
                raise _failed(f"{response.url.host} answers another range than was asked")
        else:
            self._writer.restart()
            self._other = hashlib.new(self._other.name)
            self._etag = response.headers.get("etag", "")[:_LONGEST_HEADER]
            self._modified = response.headers.get("last-modified", "")[:_LONGEST_HEADER]
        self._total = None if length is None else self.done + length
        if self._total is not None and self._total > self._largest:
            raise self._too_large(self._total)

    def _too_large(self, size: int) -> TransferError:
        return TransferError(
            f"{without_password(self._url)} has {size} bytes or more; at most {self._largest} are taken",
            code="remote-too-large",
            hint="MBUILD_MAX_LAYER_BYTES sets the limit",
        )

    def _progress(self, *, finished: bool) -> None:
        self._told = time.monotonic()
        identity = f"remote {_name(self._url)}"
        self._tell(TransferProgress(identity, file_name(self._url), self.done, self._total, finished))


def _check_status(response: httpx.Response, url: str, *, resumed: bool) -> None:
    status, shown = response.status_code, without_password(url)
    if status == 200 or (status == 206 and resumed):
        return
    if status in (404, 410):
        raise TransferError(f"{shown} does not exist", code="remote-missing", hint="check the address")
    if status in (401, 403, 407):
        raise TransferError(
            f"{response.url.host} refuses to give {shown} (status {status})",
            code="remote-refused",
            hint="ADD sends no credentials; fetch it in a RUN with a secret, or copy it into the context",
        )
    raise _failed(f"{response.url.host} answered {status} to the request for {shown}")


def _seconds(date: str) -> int:
    """A date of HTTP. Source: RFC 9110, 5.6.7."""
    from email.utils import parsedate_to_datetime  # which takes time to import

    try:
        found = parsedate_to_datetime(date)
        # Without a zone it is that of Greenwich too.
        return bounded((found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0


def _failed(message: str) -> TransferError:
    return TransferError(message, code="remote-failed", hint="try again, or ask who runs the server")


def _reword(error: TransferError) -> None:
    if error.code in _CODES:
        error.code, error.hint = _CODES[error.code]


def _name(url: str) -> str:
    """Under what the index keeps an address, which may hold a password."""
    return hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()
