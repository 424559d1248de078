"""Trying again: when, how often, and after what wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from engine.images.policy import TransferPolicy
from machinefile.errors import InterruptedBuildError, TransferError

_T = TypeVar("_T")


class RetryableError(Exception):
    """Something went wrong that may go right the next time. Never leaves this package: `error` does."""

    def __init__(self, error: TransferError, *, wait: float | None = None, connecting: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.wait = wait
        """Seconds that the server asked for."""
        self.connecting = connecting
        """Nothing has answered yet."""


class Attempts:
    """Counts the tries of one transfer and waits between them."""

    def __init__(self, policy: TransferPolicy, cancelled: threading.Event) -> None:
        self._policy = policy
        self._cancelled = cancelled
        self._failed = 0

    def insist(self, action: Callable[[], _T]) -> _T:
        """What the action gives, which is done again where it fails with RetryableError. Raises as `failed`, and as the
        action."""
        while True:
            try:
                return action()
            except RetryableError as failure:
                self.failed(failure)

    def failed(self, failure: RetryableError) -> None:
        """Wait before the next try, or raise the failure's error when there is none left.

        Raises InterruptedBuildError as soon as the build is cancelled.
        """
        self._failed += 1
        allowed = self._policy.connect_attempts if failure.connecting else self._policy.attempts
        wait = self._policy.backoff * 2 ** (self._failed - 1) if failure.wait is None else failure.wait
        if self._failed >= allowed or wait > self._policy.longest_wait:
            raise failure.error from failure
        if self._cancelled.wait(wait):
            raise InterruptedBuildError

    def progressed(self) -> None:
        """Enough has come for the count to start anew."""
        self._failed = 0

    def check(self) -> None:
        """Raises InterruptedBuildError when the build is cancelled."""
        if self._cancelled.is_set():
            raise InterruptedBuildError


def retry_after(header: str) -> float | None:
    """The seconds that a Retry-After header asks for; None where it says nothing usable. Source: RFC 9110, 10.2.3."""
    text = header.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    from email.utils import parsedate_to_datetime  # 9 ms to import, and hardly ever used

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
