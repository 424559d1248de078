"""Servers on this machine: one for files that behaves as badly as it is told, one for git repositories."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from local_server import LocalServer, QuietHandler

from cache.store import Store
from engine.events import Event
from engine.images.policy import TransferPolicy
from engine.remote.web import Web

QUICK = TransferPolicy(attempts=3, backoff=0.01, longest_wait=1.0, connect_timeout=2.0, read_timeout=0.3)


@dataclass
class Page:
    """What an address gives."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    modified: str = ""
    cut: int | None = None
    """Hang up after so many bytes, the first time."""
    ranges: bool = True
    honest: bool = True
    """Answers 304 when nothing has changed."""
    pause: float = 0.0
    """Seconds between two bytes."""
    endless: bool = False
    """Never stops, and says no length."""


@dataclass
class Asked:
    """A request."""

    path: str
    headers: dict[str, str]


class FileServer(LocalServer):
    """Serves pages, and remembers what was asked."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.pages: dict[str, Page | Callable[[], Page]] = {}
        self.asked: list[Asked] = []
        self.sent = 0
        """Bytes of bodies."""
        super().__init__(self._handler())
        if certificate is not None:
            self.secure(certificate)
        self.start()

    def page(self, body: bytes = b"", **options: object) -> Page:
        """A page, for those that are made when they are asked for."""
        return Page(body, **options)  # type: ignore[arg-type]

    def another(self, certificate: tuple[Path, Path]) -> FileServer:
        """One that speaks TLS, to be stopped."""
        return FileServer(certificate)

    def put(self, path: str, body: bytes = b"", **options: object) -> str:
        """Serve a page; gives its address."""
        self.pages[path] = self.page(body, **options)
        return self.url + path

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.asked.append(Asked(self.path, headers))
                page = server.pages.get(self.path.partition("?")[0], Page(status=404))
                self._answer(page() if callable(page) else page, headers)

            def _answer(self, page: Page, headers: dict[str, str]) -> None:
                body, status = page.body, page.status
                extra = dict(page.headers)
                if page.etag:
                    extra["ETag"] = page.etag
                if page.modified:
                    extra["Last-Modified"] = page.modified
                same = page.etag and headers.get("if-none-match") == page.etag
                same = same or (page.modified and headers.get("if-modified-since") == page.modified)
                if status == 200 and page.honest and same:
                    status, body = 304, b""
                start = headers.get("range", "")
                if status == 200 and start and page.ranges and headers.get("if-range") in (page.etag, page.modified):
                    at = int(start.removeprefix("bytes=").rstrip("-"))
                    extra["Content-Range"] = f"bytes {at}-{len(body) - 1}/{len(body)}"
                    status, body = 206, body[at:]
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                if not page.endless and status != 304:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self._body(page, body)

            def _body(self, page: Page, body: bytes) -> None:
                if page.endless:
                    self.close_connection = True
                    while True:
                        self._write(bytes(1 << 16))
                elif page.pause:
                    for byte in body:
                        self._write(bytes([byte]))
                        time.sleep(page.pause)
                elif page.cut is not None:
                    self._write(body[: page.cut])
                    page.cut = None
                    self.close_connection = True
                else:
                    self._write(body)

            def _write(self, data: bytes) -> None:
                self.wfile.write(data)
                server.sent += len(data)

        return Handler


@pytest.fixture
def server() -> Iterator[FileServer]:
    """See FileServer."""
    running = FileServer()
    yield running
    running.stop()


@dataclass
class Browser:
    """A store and a Web over it, impatient."""

    folder: Path
    store: Store
    events: list[Event] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    largest: int = 1 << 20
    policy: TransferPolicy = QUICK

    @property
    def web(self) -> Web:
        """A fresh one, as another mbuild would have."""
        return Web(self.store, self.events.append, self.cancelled, largest=self.largest, policy=self.policy)

    def content(self, digest: str) -> bytes:
        """What the store has."""
        return self.store.blobs.read(digest)

    def half_done(self) -> list[Path]:
        """Temporary files that were left."""
        return list(self.store.temporary.glob("blob-*"))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """See Browser."""
    with Store(tmp_path / "web store") as store:
        yield Browser(tmp_path, store)


class GitServer:
    """`git daemon` over a folder of repositories."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._daemon = subprocess.Popen(
            ["git", "daemon", "--export-all", "--listen=127.0.0.1", f"--port={self.port}", f"--base-path={folder}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "git daemon does not answer"
                time.sleep(0.02)

    def close(self) -> None:
        """Stop it and its helpers."""
        os.killpg(self._daemon.pid, 15)
        self._daemon.wait(10)

    def url(self, name: str) -> str:
        """Where a repository is."""
        return f"git://127.0.0.1:{self.port}/{name}"

    def repository(self, name: str = "project.git") -> Work:
        """A new repository and a place to work on it."""
        bare = self.folder / name
        git(self.folder, "init", "--quiet", "--bare", "-b", "main", str(bare))
        work = self.folder / f"work-{name}"
        git(self.folder, "clone", "--quiet", str(bare), str(work))
        git(work, "checkout", "--quiet", "-b", "main")
        return Work(bare, work, self.url(name))


@dataclass
class Work:
    """A clone from which one pushes."""

    bare: Path
    folder: Path
    url: str

    def write(self, path: str, content: str = "", mode: int = 0o644) -> None:
        """Put a file there."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content or path)
        file.chmod(mode)

    def commit(self, message: str = "more", *refs: str) -> str:
        """Commit all and push; gives the commit."""
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "-m", message)
        self.push(*refs)
        return git(self.folder, "rev-parse", "HEAD")

    def tag(self, name: str, message: str) -> None:
        """Put an annotated tag on HEAD, moving it if it is there, and push it."""
        git(self.folder, "tag", "--force", "-a", "-m", message, name)
        self.push(f"refs/tags/{name}")

    def push(self, *refs: str) -> None:
        """Push HEAD as main, or these."""
        git(self.folder, "push", "--quiet", "--force", "origin", *(refs or ("HEAD:refs/heads/main",)))


def git(folder: Path, *arguments: str) -> str:
    """Run git as somebody, at a known time, and give what it prints."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
    }
    argv = ["git", "-c", "protocol.file.allow=always", "-c", "advice.detachedHead=false", *arguments]
    done = subprocess.run(argv, cwd=folder, env=environment, check=True, capture_output=True, timeout=60)
    return done.stdout.decode().strip()


@pytest.fixture
def git_server(tmp_path: Path) -> Iterator[GitServer]:
    """See GitServer."""
    if shutil.which("git") is None:
        pytest.fail("git is not installed: run scripts/setup")
    folder = tmp_path / "repositories"
    folder.mkdir()
    running = GitServer(folder)
    yield running
    running.close()
