"""An eye on exchanges in which too little comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from machinefile.errors import InterruptedBuildError

if TYPE_CHECKING:
    from socket import socket
    from types import TracebackType

_POLL = 0.1


class Watch:
    """Ends a connection when what is waited for takes longer than `patience` seconds as a whole, or `cancelled` is set.

    A socket's timeout is for a single read: where there always comes a little, it never passes. A context manager, in
    which a thread of its own looks at the clock.
    """

    def __init__(self, cancelled: threading.Event, patience: float) -> None:
        self._cancelled = cancelled
        self._patience = patience
        self._until = float("inf")
        self._connection: socket | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._late = False

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def late(self) -> bool:
        """Whether the connection was ended here."""
        return self._late

    def follow(self, connection: socket | None) -> None:
        """This is the connection, from now on."""
        self._connection = connection

    def begin(self) -> None:
        """Something is waited for from now on."""
        self._until = time.monotonic() + self._patience

    def pause(self) -> None:
        """Nothing is waited for."""
        self._until = float("inf")

    @contextmanager
    def over(self) -> Iterator[None]:
        """To many a client the end of a connection is that of headers, or of a body without a length. What fails in
        here, or seems to succeed, because the end was made by the watch, raises TimeoutError or InterruptedBuildError.
        """
        try:
            yield
        except Exception:
            self._check()
            raise
        self._check()

    def _check(self) -> None:
        if self._late:
            if self._cancelled.is_set():
                raise InterruptedBuildError
            raise TimeoutError("it did not answer in time")

    def _look(self) -> None:
        while not self._over.wait(_POLL):
            if self._connection is not None and (self._cancelled.is_set() or time.monotonic() > self._until):
                self._late = True  # before who waits goes on
                _hang_up(self._connection)
                return


def _hang_up(connection: socket) -> None:
    """Whoever waits for it finds it closed."""
    from socket import SHUT_RDWR, socket

    with suppress(OSError):
        # Not TLS's own: that one would have the other thread go on in the clear.
        socket.shutdown(connection, SHUT_RDWR)
