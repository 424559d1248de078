"""Blobs on their way: what is sent is checked as it goes, what comes is cut off where it should end."""

from __future__ import annotations

import hashlib
import threading
from typing import BinaryIO

from cache.carry.place import Sink
from machinefile.errors import InterruptedBuildError, TransferError, UntrustedDataError

CHUNK = 1 << 20
"""Bytes read at a time."""


def copy_checked(source: BinaryIO, sink: Sink, digest: str, size: int, cancelled: threading.Event) -> None:
    """Copy a blob that is to be sent, and check that it is what it is called: nothing else may get that name.

    Raises UntrustedDataError (`digest-mismatch`), InterruptedBuildError.
    """
    summed, copied = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        check(cancelled)
        summed.update(chunk)
        copied += len(chunk)
        if copied > size:
            break
        sink(chunk)
    if copied != size or summed.hexdigest() != digest.removeprefix("sha256:"):
        raise UntrustedDataError(
            f"the blob {digest} is not what it is called, and was not sent to the cache",
            code="digest-mismatch",
            hint="`mbuild cache check` looks for what is damaged in the store",
        )


def check(cancelled: threading.Event) -> None:
    """Raises InterruptedBuildError once the build is stopped."""
    if cancelled.is_set():
        raise InterruptedBuildError


def missing(what: str, digest: str) -> TransferError:
    """For a blob that its place does not have."""
    return TransferError(f"the {what} has no blob {digest}", code="cache-blob-missing", hint="export the cache again")


def damaged(what: str, digest: str) -> UntrustedDataError:
    """For a blob that is not as large as its index says."""
    return UntrustedDataError(
        f"the blob {digest} in the {what} is damaged: it has another size",
        code="cache-damaged",
        hint="export the cache again",
    )
