"""A server that does what registries do on bad days, and small images."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from local_server import LocalServer, QuietHandler

from engine.images import mediatype
from engine.images.config import ImageConfiguration
from engine.images.credentials import CredentialStore
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.manifest import Manifest
from engine.images.policy import TransferPolicy
from engine.images.registry import RegistryClient
from machinefile.imageconfig import ImageConfig
from machinefile.platform import Platform


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Send only so many bytes of the body, then hang up."""
    pause: float = 0
    """Seconds between single bytes."""


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """The client's port."""


Answer = Reply | Callable[[Seen], Reply] | list[Reply]


class FaultServer(LocalServer):
    """Answers as told. A list is worked off, its last reply repeated; what is not told is 404."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._answers: dict[str, Answer] = {}
        server = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(length)
                self._send(server.answer(Seen(self.command, self.path, headers, body, self.client_address[1])))

            do_HEAD = do_POST = do_GET  # noqa: N815

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD" and reply.pause:
                    for byte in reply.body:
                        self.wfile.write(bytes([byte]))
                        time.sleep(reply.pause)
                elif self.command != "HEAD":
                    self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
                if reply.cut is not None:
                    self.close_connection = True

        super().__init__(Handler)
        self.start()

    def on(self, path: str, answer: Answer) -> None:
        """What to say about a path (without its query), whatever the method."""
        self._answers[path] = answer

    def answers(self, path: str) -> Answer:
        """What is said about a path now."""
        return self._answers[path]

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        answer = self._answers.get(seen.path.partition("?")[0], Reply(404))
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer if isinstance(answer, Reply) else answer(seen)

    def paths(self, method: str = "GET") -> list[str]:
        return [seen.path for seen in self.seen if seen.method == method]


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def fault_server() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture
def other_server() -> Iterator[FaultServer]:
    """Another host, as far as HTTP is concerned."""
    server = FaultServer()
    yield server
    server.stop()


@pytest.fixture
def quick() -> TransferPolicy:
    return TransferPolicy(
        attempts=4, backoff=0.01, longest_wait=3, connect_timeout=3, read_timeout=1, small_deadline=3, progress=1000
    )


@pytest.fixture
def new_client(quick: TransferPolicy) -> Iterator[Callable[..., RegistryClient]]:
    made: list[RegistryClient] = []

    def new(*files: Path, **options: object) -> RegistryClient:
        values = {"policy": quick, "credentials": CredentialStore(files), **options}
        made.append(RegistryClient(**values))  # type: ignore[arg-type]
        return made[-1]

    yield new
    for client in made:
        client.__exit__(None, None, None)


@dataclass(frozen=True)
class SmallImage:
    layer: bytes
    config: bytes
    manifest: Manifest

    @property
    def data(self) -> bytes:
        return self.manifest.to_json()

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    @property
    def blobs(self) -> dict[str, bytes]:
        return {digest_of(data): data for data in (self.layer, self.config, self.data)}

    def serve(self, server: FaultServer, repository: str, tag: str) -> None:
        """Put the image on a server, well behaved."""
        told = {"Content-Type": self.manifest.media_type, "Docker-Content-Digest": self.digest}
        for target in (tag, self.digest):
            server.on(f"/v2/{repository}/manifests/{target}", Reply(200, self.data, told))
        for digest, data in self.blobs.items():
            server.on(f"/v2/{repository}/blobs/{digest}", Reply(200, data))


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(name="tar_of")
def tar_of_fixture() -> Callable[[dict[str, bytes]], bytes]:
    return tar_of


@pytest.fixture
def new_image() -> Callable[..., SmallImage]:
    """`new_image(b"content", Platform(...))`."""

    def new(content: bytes = b"hello\n", platform: Platform | None = None) -> SmallImage:
        runs_on = platform or Platform("linux", "amd64")
        layer = tar_of({"etc/motd": content})
        config = ImageConfiguration(
            ImageConfig(env=(("PATH", "/bin"),), cmd=("/bin/sh",)),
            runs_on.architecture,
            runs_on.os,
            runs_on.variant,
            diff_ids=(digest_of(layer),),
        ).to_json()
        manifest = Manifest(
            Descriptor(mediatype.OCI_CONFIG, digest_of(config), len(config)),
            (Descriptor(mediatype.OCI_LAYER, digest_of(layer), len(layer)),),
        )
        return SmallImage(layer, config, manifest)

    return new


@pytest.fixture
def image(new_image: Callable[..., SmallImage]) -> SmallImage:
    return new_image()
