"""A registry in memory that takes pushes by the book, and has bad days on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from local_server import LocalServer, QuietHandler


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    queries: dict[str, list[str]]
    """Every value."""


@dataclass
class Fault:
    """What happens to a request in place of what should."""

    status: int = 0
    """Answer this; 0 hangs up without an answer."""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after: int | None = None
    """Keep so many bytes of the body first, as if they had arrived."""
    obey: bool = False
    """Do what was asked first, so that only the answer is lost."""


Trouble = Callable[[Request], Fault | None]


@dataclass
class Session:
    repository: str
    data: bytearray = field(default_factory=bytearray)


class PushRegistry(LocalServer):
    """Blobs and manifests by repository, uploads with status and ranges."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], bytes] = {}
        self.types: dict[str, str] = {}
        self.uploads: dict[str, Session] = {}
        self.seen: list[Request] = []
        self.trouble: Trouble = lambda request: None
        self.location = "/v2/{repository}/blobs/uploads/{id}"
        """Where uploads go on."""
        self.handlers: dict[str, Callable[[Request], tuple[int, dict[str, str], bytes]]] = {}
        """What answers other paths."""
        self.lock = threading.Lock()
        self.busy = self.most_busy = 0
        registry = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802
                parts = urlsplit(self.path)
                queries = parse_qs(parts.query)
                query = {name: values[0] for name, values in queries.items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, parts.path, query, headers, queries)
                with registry.lock:
                    registry.seen.append(request)
                    registry.busy += 1
                    registry.most_busy = max(registry.most_busy, registry.busy)
                try:
                    registry.serve(self, request)
                finally:
                    with registry.lock:
                        registry.busy -= 1

            do_HEAD = do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815

        super().__init__(Handler)
        self.start()

    def asked(self, method: str, part: str = "") -> list[Request]:
        return [one for one in self.seen if one.method == method and part in one.path]

    def serve(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        length = int(request.headers.get("content-length", 0))
        assert "transfer-encoding" not in request.headers
        fault = self.trouble(request)
        if fault is not None:
            body = handler.rfile.read(length if fault.after is None else min(length, fault.after))
            if fault.obey or fault.after is not None:
                self._answer(request, body)
            if fault.after is not None or not fault.status:
                handler.close_connection = True
            if fault.status:
                _send(handler, fault.status, fault.headers, fault.body)
            return
        _send(handler, *self._answer(request, handler.rfile.read(length)))

    def _answer(self, request: Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        own = self.handlers.get(request.path)
        if own is not None:
            return own(request)
        if match := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", request.path):
            return self._upload(request, match[1], match[2], body)
        if match := re.fullmatch(r"/v2/(.+)/blobs/(sha256:.+)", request.path):
            return _found(self.blobs.get((match[1], match[2])), {})
        if match := re.fullmatch(r"/v2/(.+)/manifests/(.+)", request.path):
            return self._manifest(request, match[1], match[2], body)
        return 404, {}, b""

    def _upload(self, request: Request, repository: str, name: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if request.method == "POST":
            return self._open(request, repository)
        session = self.uploads.get(name)
        if session is None:
            return 404, {}, b'{"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}'
        if request.method == "PATCH":
            start = int(request.headers.get("content-range", f"{len(session.data)}-").partition("-")[0])
            if start != len(session.data):
                return 416, {}, b""
            session.data += body
        if request.method == "PUT":
            session.data += body
            data = bytes(session.data)
            del self.uploads[name]
            if _digest(data) != request.query["digest"]:
                return 400, {}, b'{"errors": [{"code": "DIGEST_INVALID", "message": "not that digest"}]}'
            self.blobs[repository, _digest(data)] = data
            return 201, {"Docker-Content-Digest": _digest(data)}, b""
        told = {"Location": self._place(repository, name), "Range": f"0-{max(0, len(session.data) - 1)}"}
        return 204 if request.method == "GET" else 202, told, b""

    def _open(self, request: Request, repository: str) -> tuple[int, dict[str, str], bytes]:
        digest, origin = request.query.get("mount", ""), request.query.get("from", "")
        if (origin, digest) in self.blobs:
            self.blobs[repository, digest] = self.blobs[origin, digest]
            return 201, {"Docker-Content-Digest": digest}, b""
        with self.lock:
            name = str(len(self.seen))
            self.uploads[name] = Session(repository)
        return 202, {"Location": self._place(repository, name), "Range": "0-0"}, b""

    def _place(self, repository: str, name: str) -> str:
        return self.location.format(repository=repository, id=name)

    def _manifest(
        self, request: Request, repository: str, target: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if request.method != "PUT":
            data = self.manifests.get((repository, target))
            told = {"Docker-Content-Digest": _digest(data), "Content-Type": self.types[_digest(data)]} if data else {}
            return _found(data, told)
        digest = _digest(body)
        for missing in self._missing(repository, json.loads(body)):
            return 404, {}, json.dumps({"errors": [{"message": f"unknown: {missing}"}]}).encode()
        self.manifests[repository, target] = self.manifests[repository, digest] = body
        self.types[digest] = request.headers["content-type"]
        return 201, {"Docker-Content-Digest": digest}, b""

    def _missing(self, repository: str, manifest: dict[str, list[dict[str, str]]]) -> list[str]:
        blobs = [manifest["config"], *manifest["layers"]] if "layers" in manifest else []
        needed = [one["digest"] for one in blobs if "urls" not in one]  # type: ignore[index]
        children = [one["digest"] for one in manifest.get("manifests", [])]
        lacking = [digest for digest in needed if (repository, digest) not in self.blobs]
        return lacking + [digest for digest in children if (repository, digest) not in self.manifests]


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _found(data: bytes | None, told: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    return (404, {}, b"") if data is None else (200, told, data)


def _send(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if status != 204:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
