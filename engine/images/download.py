"""One blob, streamed: checked as it comes, resumed where it was cut."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from engine.events import Observer, TransferProgress
from engine.images.descriptor import Descriptor
from engine.images.digest import short
from engine.images.policy import TransferPolicy
from engine.images.retry import Attempts, RetryableError
from machinefile.errors import TransferError, UntrustedDataError

if TYPE_CHECKING:
    import httpx

Sink = Callable[[bytes], object]
"""Takes a blob's bytes in order. They are verified only when the call that feeds it has returned."""

_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)", re.ASCII)
_EVENT_SECONDS = 0.1


class Verifier:
    """Passes a blob's bytes on to a sink, tells how far it is, and in the end whether they are the blob."""

    def __init__(self, descriptor: Descriptor, label: str, sink: Sink, observer: Observer) -> None:
        self.descriptor = descriptor
        self.done = 0
        self._label = label
        self._sink = sink
        self._observer = observer
        self._hash = hashlib.sha256()
        self._told = float("-inf")

    def feed(self, data: bytes) -> None:
        """Raises UntrustedDataError (`blob-too-long`) when more comes than the descriptor says."""
        if self.done + len(data) > self.descriptor.size:
            raise UntrustedDataError(
                f"the blob {self.descriptor.digest} is longer than the {self.descriptor.size} bytes it should have",
                code="blob-too-long",
            )
        self.done += len(data)
        self._hash.update(data)
        self._sink(data)
        if time.monotonic() - self._told >= _EVENT_SECONDS:
            self._tell(finished=False)

    def finish(self) -> None:
        """Raises UntrustedDataError: `blob-truncated`, `digest-mismatch`."""
        if self.done < self.descriptor.size:
            raise self.truncated()
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != self.descriptor.digest:
            raise mismatch("the blob", self.descriptor.digest, actual)
        self._tell(finished=True)

    def truncated(self) -> UntrustedDataError:
        """The error for a blob that ended too early."""
        return UntrustedDataError(
            f"the blob {self.descriptor.digest} ends after {self.done} of {self.descriptor.size} bytes",
            code="blob-truncated",
            hint="the source is damaged, or something on the way cuts downloads: push the image again, or try later",
        )

    def _tell(self, *, finished: bool) -> None:
        self._told = time.monotonic()
        digest = self.descriptor.digest
        label = f"{self._label} {short(digest)}"
        self._observer(TransferProgress(digest, label, self.done, self.descriptor.size, finished))


def mismatch(what: str, expected: str, actual: str) -> UntrustedDataError:
    """The error for bytes that are not what their digest says."""
    return UntrustedDataError(
        f"{what} {expected} has the digest {actual}",
        code="digest-mismatch",
        hint="the source is damaged or was tampered with: do not use it",
    )


def download(
    open_at: Callable[[int], AbstractContextManager[httpx.Response]],
    verifier: Verifier,
    attempts: Attempts,
    policy: TransferPolicy,
) -> None:
    """Feed the verifier with a whole blob.

    `open_at` asks for the bytes from an offset on; an answer that starts at the beginning all the same is read
    past what is there already, so the sink never sees a byte twice.
    """
    counted = 0
    while True:
        try:
            with open_at(verifier.done) as response:
                _receive(response, verifier, attempts, policy)
            if verifier.done < verifier.descriptor.size:
                raise RetryableError(verifier.truncated())
        except RetryableError as failure:
            if verifier.done - counted >= policy.progress:
                counted = verifier.done
                attempts.progressed()
            attempts.failed(failure)
        else:
            verifier.finish()
            return


def _receive(response: httpx.Response, verifier: Verifier, attempts: Attempts, policy: TransferPolicy) -> None:
    skip = _to_skip(response, verifier)
    since, seen = time.monotonic(), 0
    for part in response.iter_raw():
        attempts.check()
        fresh = part[skip:] if skip else part
        skip = max(0, skip - len(part))
        if fresh:
            verifier.feed(fresh)
        seen += len(part)
        now = time.monotonic()
        if now - since > policy.read_timeout:
            if seen < policy.slowest * policy.read_timeout:
                stuck = TransferError(f"{response.url.host} sends next to nothing", code="registry-failed")
                raise RetryableError(stuck)
            since, seen = now, 0


def _to_skip(response: httpx.Response, verifier: Verifier) -> int:
    """How many bytes of the answer are there already."""
    if response.status_code != 206:
        _check_length(response, verifier)
        return verifier.done
    match = _RANGE.fullmatch(response.headers.get("content-range", ""))
    start = int(match[1]) if match else verifier.done
    if start > verifier.done:
        raise TransferError(f"{response.url.host} answers another range than was asked", code="registry-failed")
    return verifier.done - start


def _check_length(response: httpx.Response, verifier: Verifier) -> None:
    """Refuses a blob that announces more than it may have before a byte of it is stored."""
    announced = response.headers.get("content-length", "")
    size = int(announced) if announced.isascii() and announced.isdigit() and len(announced) < 20 else 0
    if size > verifier.descriptor.size:
        raise UntrustedDataError(
            f"the blob {verifier.descriptor.digest} has {size} bytes, not {verifier.descriptor.size}",
            code="blob-too-long",
        )
