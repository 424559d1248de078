"""A proxy before a real registry that makes of its answers what bad networks make of them."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from local_server import LocalServer, QuietHandler

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """Names in lower case."""

    def is_blob(self) -> bool:
        """Whether a blob is read."""
        return self.method == "GET" and "/blobs/sha256:" in self.path


@dataclass(frozen=True)
class Fault:
    """What happens to an exchange; several may happen at once."""

    delay: float = 0
    """Seconds before anything is done."""
    status: int = 0
    """Answer this, and do not ask the registry."""
    retry_after: str = ""
    redirect: str = ""
    """To the same path on this origin."""
    cut: int | None = None
    """Hang up after so many bytes of the answer's body."""
    cut_request: int | None = None
    """Hang up, on both sides, after so many bytes of the request's body."""
    corrupt: int | None = None
    """Change this byte of the answer's body."""
    drip: float = 0
    """Seconds between two pieces of the answer's body."""


Trouble = Callable[[Asked], Fault | None]


class FaultProxy(LocalServer):
    """Speaks HTTP/1.1 to both sides; a context manager."""

    def __init__(self, registry: str) -> None:
        """`registry` is `HOST:PORT`, spoken to in plain HTTP."""
        self.registry = registry
        self.seen: list[Asked] = []
        self.statuses: list[tuple[str, int]] = []
        """Method and status of what was answered."""
        self.trouble: Trouble = lambda asked: None
        proxy = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802
                proxy.serve(self)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

        super().__init__(Handler)

    def asked(self, method: str, part: str = "") -> list[Asked]:
        return [one for one in self.seen if one.method == method and part in one.path]

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers)
        self.seen.append(asked)
        fault = self.trouble(asked) or Fault()
        time.sleep(fault.delay)
        length = int(headers.get("content-length", 0))
        if fault.status or fault.redirect:
            self._answer_alone(handler, fault, length)
            return
        upstream = http.client.HTTPConnection(self.registry, timeout=30)
        try:
            if self._pass_request(handler, upstream, length, fault.cut_request):
                self._pass_answer(handler, upstream.getresponse(), fault)
        finally:
            upstream.close()

    def _answer_alone(self, handler: BaseHTTPRequestHandler, fault: Fault, length: int) -> None:
        while length > 0:
            length -= len(handler.rfile.read(min(_CHUNK, length)))
        status = fault.status or 307
        self.statuses.append((handler.command, status))
        handler.send_response(status)
        if fault.retry_after:
            handler.send_header("Retry-After", fault.retry_after)
        if fault.redirect:
            handler.send_header("Location", fault.redirect + handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    @staticmethod
    def _pass_request(
        handler: BaseHTTPRequestHandler, upstream: http.client.HTTPConnection, length: int, cut: int | None
    ) -> bool:
        upstream.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():  # with its Host, so that what comes back leads here again
            upstream.putheader(name, value)
        upstream.endheaders()
        left = length if cut is None else min(length, cut)
        while left > 0:
            piece = handler.rfile.read(min(_CHUNK, left))
            if not piece:
                return False
            upstream.send(piece)
            left -= len(piece)
        if cut is not None and cut < length:
            time.sleep(0.1)  # what was sent shall arrive before the end of the connection does
            handler.close_connection = True
            return False
        return True

    def _pass_answer(self, handler: BaseHTTPRequestHandler, response: http.client.HTTPResponse, fault: Fault) -> None:
        self.statuses.append((handler.command, response.status))
        handler.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "HEAD":
            return
        done = 0
        while piece := response.read(_CHUNK if fault.cut is None else min(_CHUNK, fault.cut - done)):
            if fault.corrupt is not None and done <= fault.corrupt < done + len(piece):
                at = fault.corrupt - done
                piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
            handler.wfile.write(piece)
            done += len(piece)
            time.sleep(fault.drip)
        if fault.cut is not None:
            handler.close_connection = True


def first(number: int, fault: Fault, applies: Callable[[Asked], bool]) -> Trouble:
    """The fault, for the first so many requests that it applies to."""
    left = [number]
    lock = threading.Lock()

    def trouble(asked: Asked) -> Fault | None:
        with lock:
            if not applies(asked) or not left[0]:
                return None
            left[0] -= 1
            return fault

    return trouble
