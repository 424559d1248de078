"""One blob on its way into a repository. Source: OCI distribution spec v1.1, "Pushing blobs"."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import quote

from cache.spans import span
from engine.events import Observer, TransferProgress, ignore
from engine.images.descriptor import Descriptor
from engine.images.digest import short
from engine.images.reference import Reference
from engine.images.retry import RetryableError
from engine.images.session import Session, pull_scope, push_scope
from engine.images.transport import Content
from machinefile.errors import InterruptedBuildError, StoreError, TransferError, UntrustedDataError

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")

Open = Callable[[str], BinaryIO]
"""Opens a blob by its digest; raises MbuildError when it cannot."""

_AT_ONCE = 1 << 18
"""Bytes: blobs up to this size go with the request that ends the upload."""
_CHUNK = 1 << 18
_PIECE = 16 << 20
"""Bytes: requests of this size replace one that was too large for something on the way."""
_EVENT_SECONDS = 0.1
_MOST_ORIGINS = 3
_RANGE = re.compile(r"(?:bytes[= ])?0-(\d{1,19})", re.ASCII)
_BEGIN_ANEW = frozenset({400, 404, 409, 410, 416})
"""What registries say to an upload that they no longer know, or know otherwise than we do."""


class Delivery(Enum):
    """How a blob got into its repository."""

    THERE = "there"
    """It was there already."""
    MOUNTED = "mounted"
    """The registry had it in another repository."""
    SENT = "sent"


class Upload:
    """Brings one blob into the repository of `reference`."""

    def __init__(
        self,
        session: Session,
        reference: Reference,
        descriptor: Descriptor,
        open_blob: Open,
        origins: Sequence[str] = (),
        observer: Observer = ignore,
    ) -> None:
        """`origins`: repositories of the same registry that may have the blob."""
        self._session = session
        self._reference = reference
        self._blob = descriptor
        self._open = open_blob
        self._origins = list(origins[:_MOST_ORIGINS])
        self._observer = observer
        self._scope = push_scope(reference.repository)
        self._stop = threading.Event()
        self._attempts = session.attempts()
        self._location = ""
        self._done = 0
        """Bytes that the registry says it has of the upload at `_location`."""
        self._sent = False
        self._piece = descriptor.size
        """Bytes that go in one request."""
        self._told = float("-inf")

    def run(self, stop: threading.Event) -> Delivery:
        """Deliver the blob, unless `stop` is set meanwhile.

        Raises TransferError (`registry-unauthorized`, `registry-unreachable`, `registry-failed`, `push-refused`),
        StoreError (`blob-corrupt`) when the blob here is not what its digest says, InterruptedBuildError.
        """
        with span("push blob", "transfer", blob=self._blob.digest, bytes=self._blob.size) as pushing:
            delivery = self._insist(self._deliver, stop)
            pushing.note(delivery=delivery.value)
            return delivery

    def is_there(self, stop: threading.Event) -> bool:
        """Whether the repository has the blob already. Raises as `run`."""
        return self._insist(self._is_there, stop)

    def _insist(self, action: Callable[[], _T], stop: threading.Event) -> _T:
        self._stop, self._attempts = stop, self._session.attempts(stop)

        def unless_stopped() -> _T:
            self._attempts.check()
            return action()

        return self._attempts.insist(unless_stopped)

    def _deliver(self) -> Delivery:
        if self._is_there():
            return Delivery.SENT if self._sent else Delivery.THERE
        if not self._resume() and self._begin():
            return Delivery.MOUNTED
        with self._open(self._blob.digest) as file:
            self._check_size(file)
            if self._blob.size > _AT_ONCE:
                self._send(file)
                self._finish(file, None)
            else:
                self._finish(file, file.read(_AT_ONCE + 1))
        self._tell(self._blob.size, finished=True)
        return Delivery.SENT

    def _is_there(self) -> bool:
        url = self._session.url(self._reference, f"blobs/{self._blob.digest}")
        with self._exchange("HEAD", url) as response:
            if response.status_code == 200:
                length = response.headers.get("content-length", "")
                return length in ("", str(self._blob.size))
            if response.status_code in (404, 405):
                return False
            raise self._session.transport.failure(response, self._what)

    def _resume(self) -> bool:
        """Ask how much has arrived of an upload that was cut; False when it must begin anew."""
        if self._blob.size <= _AT_ONCE:
            self._forget()
        if not self._location:
            return False
        with self._exchange("GET", self._location) as response:
            if response.status_code not in (200, 202, 204):
                if response.status_code == 429 or response.status_code >= 500:
                    raise self._session.transport.failure(response, self._what)
                self._forget()
                return False
            match = _RANGE.fullmatch(response.headers.get("range", ""))
            # `0-0` is what registries say of an upload that has nothing, though it means one byte.
            done = int(match[1]) + 1 if match and match[1] != "0" else 0
            if done > self._blob.size:
                self._forget()
                return False
            if done - self._done >= self._session.policy.progress:
                self._attempts.progressed()
            self._done = done
            self._move(response, required=False)
            return True

    def _begin(self) -> bool:
        """Open an upload; True when the registry took the blob from another repository instead."""
        origins, self._origins = self._origins, []
        for origin in origins:
            if self._mount(origin):
                return True
            if self._location:
                return False
        with self._exchange("POST", self._session.url(self._reference, "blobs/uploads/"), content=b"") as response:
            if response.status_code != 202:
                raise self._refusal(response)
            self._move(response)
        return False

    def _mount(self, origin: str) -> bool:
        path = f"blobs/uploads/?mount={quote(self._blob.digest, safe='')}&from={quote(origin, safe='')}"
        scope = f"{self._scope} {pull_scope(origin)}"
        try:
            with self._exchange("POST", self._session.url(self._reference, path), content=b"", scope=scope) as response:
                if response.status_code == 202:
                    self._move(response)
                return response.status_code == 201
        except TransferError as error:
            if error.code == "registry-unauthorized":  # we may not read there: no reason not to send it
                return False
            raise

    def _send(self, file: BinaryIO) -> None:
        """Everything that is left, in one request, as Docker sends it: many registries do not take several."""
        while self._done < self._blob.size:
            self._send_piece(file, self._done, min(self._done + self._piece, self._blob.size))

    def _send_piece(self, file: BinaryIO, start: int, end: int) -> None:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(end - start)}
        if end - start < self._blob.size:
            headers["Content-Range"] = f"{start}-{end - 1}"
        patience = self._session.policy.commit_timeout
        with self._exchange(
            "PATCH", self._location, headers=headers, content=lambda: self._chunks(file, start, end), patience=patience
        ) as response:
            if response.status_code == 413 and self._piece > _PIECE:
                self._piece = _PIECE
                self._forget()
                refusal = self._refusal(response)
                raise refusal if isinstance(refusal, RetryableError) else RetryableError(refusal, wait=0)
            self._check_alive(response)
            if response.status_code not in (200, 201, 202, 204):
                raise self._refusal(response)
            self._done = end
            self._move(response, required=False)

    def _finish(self, file: BinaryIO, content: Content) -> None:
        joint = "&" if "?" in self._location else "?"
        url = f"{self._location}{joint}digest={quote(self._blob.digest, safe='')}"
        headers = {"Content-Type": "application/octet-stream"}
        self._sent = True
        with self._exchange(
            "PUT", url, headers=headers, content=content or b"", patience=self._session.policy.commit_timeout
        ) as response:
            if response.status_code == 400:
                self._check_content(file)
            self._check_alive(response)
            if response.status_code not in (200, 201, 202, 204):
                raise self._refusal(response)
            said = response.headers.get("docker-content-digest", self._blob.digest)
            if said != self._blob.digest:
                raise UntrustedDataError(
                    f"{self._reference.registry} calls {self._what} {said[:80]!r}", code="digest-mismatch"
                )

    def _exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Content = None,
        scope: str = "",
        patience: float | None = None,
    ) -> AbstractContextManager[httpx.Response]:
        scope = scope or self._scope
        return self._session.exchange(
            self._reference, method, url, headers=headers, content=content, scope=scope, patience=patience
        )

    def _move(self, response: httpx.Response, *, required: bool = True) -> None:
        """The next request goes where this answer says."""
        location = response.headers.get("location", "")
        if location:
            self._location = self._session.transport.follow(response, location)
        elif required:
            raise TransferError(
                f"{self._reference.registry} opens an upload and does not say where", code="registry-failed"
            )

    def _check_alive(self, response: httpx.Response) -> None:
        if response.status_code in _BEGIN_ANEW:
            self._forget()
            failure = self._refusal(response)
            raise failure if isinstance(failure, RetryableError) else RetryableError(failure)

    def _refusal(self, response: httpx.Response) -> TransferError | RetryableError:
        failure = self._session.transport.failure(response, self._what)
        if isinstance(failure, TransferError):
            failure.code = "push-refused"
            if response.status_code == 405:
                failure.hint = f"{self._reference.registry} may be for reading alone: a mirror, or a cache"
            elif response.status_code == 413:
                failure.hint = "something before the registry limits how large a request may be: ask who runs it"
        return failure

    def _forget(self) -> None:
        self._location, self._done = "", 0

    def _chunks(self, file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
        file.seek(start)
        done = start
        while chunk := file.read(min(_CHUNK, end - done)):
            if self._stop.is_set():
                raise InterruptedBuildError
            yield chunk
            done += len(chunk)
            self._tell(done)

    def _check_size(self, file: BinaryIO) -> None:
        size = file.seek(0, 2)
        file.seek(0)
        if size != self._blob.size:
            raise self._corrupt(f"has {size} bytes, not {self._blob.size}")

    def _check_content(self, file: BinaryIO) -> None:
        """The registry doubts the digest: is it we who are wrong?"""
        file.seek(0)
        summed = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            summed.update(chunk)
        if f"sha256:{summed.hexdigest()}" != self._blob.digest:
            raise self._corrupt("has other content than its digest says")

    def _corrupt(self, reason: str) -> StoreError:
        return StoreError(
            f"the blob {self._blob.digest} in the store is damaged: it {reason}",
            code="blob-corrupt",
            hint="run mbuild cache check --repair, then build or pull again",
        )

    def _tell(self, done: int, *, finished: bool = False) -> None:
        if finished or time.monotonic() - self._told >= _EVENT_SECONDS:
            self._told = time.monotonic()
            label = f"push {self._reference.short} {short(self._blob.digest)}"
            self._observer(TransferProgress(f"push {self._blob.digest}", label, done, self._blob.size, finished))

    @property
    def _what(self) -> str:
        return f"the blob {self._blob.digest} of {self._reference.short}"
