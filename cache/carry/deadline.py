"""Calls into libraries that may wait as long as they like, waited for no longer than we like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from cache.carry.stream import check

_T = TypeVar("_T")
_POLL = 0.05
"""Seconds between two looks at whether the build was stopped; the end of the call itself wakes at once."""


def within(
    seconds: float, cancelled: threading.Event, call: Callable[[], _T], closed: threading.Event | None = None
) -> _T:
    """What `call` gives or raises. Its thread is left to itself when time is up, the build is stopped, or what it asks
    is `closed`; it does not keep the process from ending.

    Raises TimeoutError after so many seconds, InterruptedBuildError.
    """
    closed = closed or cancelled
    check(cancelled)
    check(closed)
    done = threading.Event()
    results: list[_T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="cache-call", daemon=True).start()
    deadline = time.monotonic() + seconds
    while not done.wait(min(_POLL, max(0.0, deadline - time.monotonic()))):
        check(cancelled)
        check(closed)
        if time.monotonic() >= deadline:
            raise TimeoutError(f"no answer in {seconds:.0f} seconds")
    if failures:
        raise failures[0]
    return results[0]
