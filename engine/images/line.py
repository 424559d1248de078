"""A client of httpx's with the one connection that it has, under a watch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from engine.images.watch import Watch

if TYPE_CHECKING:
    from socket import socket


class Line:
    """Carries one exchange at a time."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._connection: socket | None = None

    @contextmanager
    def exchange(self, request: httpx.Request, watch: Watch) -> Iterator[httpx.Response]:
        """Send a request; the answer's body is not read yet. What is waited for is its headers, and then each part of
        its body; who reads that may take any time between them.

        Raises what httpx raises, and InterruptedBuildError.
        """

        def trace(event: str, facts: Mapping[str, Any]) -> None:
            # Source: httpcore's documentation, "Request extensions".
            if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
                self._connection = facts["return_value"].get_extra_info("socket")
                watch.follow(self._connection)
            elif event.endswith(".receive_response_headers.started"):
                watch.begin()

        request.extensions["trace"] = trace
        watch.follow(self._connection)
        with watch:
            with _in_time(watch):
                response = self._client.send(request, stream=True)
                watch.pause()
            try:
                response.stream = _Body(response.stream, watch)
                yield response
            finally:
                response.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class _Body(httpx.SyncByteStream):
    """Gives what another stream gives."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self._inner = inner
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        with _in_time(self._watch):
            self._watch.begin()
            for part in self._inner:
                self._watch.pause()
                yield part
                self._watch.begin()

    def close(self) -> None:
        self._inner.close()


@contextmanager
def _in_time(watch: Watch) -> Iterator[None]:
    """As `Watch.over`, in httpx's words: raises httpx.ReadTimeout or InterruptedBuildError."""
    try:
        with watch.over():
            yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(str(error)) from error
