"""A registry of our own on loopback, plain HTTP."""

from __future__ import annotations

import http.client
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark.measure import BenchError

_MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry."""

    address: str
    """`127.0.0.1:PORT`."""

    @staticmethod
    def of(name: str) -> Registry:
        """The one that an image's name begins with."""
        return Registry(name.partition("/")[0])

    def copy(self, image: str, name: str) -> str:
        """Put an image, as skopeo writes it, there; gives its whole name."""
        argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        subprocess.run([*argv, image, f"docker://{self.address}/{name}"], check=True, timeout=600)
        return f"{self.address}/{name}"

    def digest(self, name: str) -> str:
        """Of a manifest, by the name that `copy` gives. Raises BenchError."""
        repository, _, tag = name.partition("/")[2].rpartition(":")
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request("HEAD", f"/v2/{repository}/manifests/{tag}", headers={"Accept": _MANIFESTS})
            found = connection.getresponse().getheader("Docker-Content-Digest")
        finally:
            connection.close()
        if not found:
            raise BenchError(f"the registry does not have {name}")
        return found


@contextmanager
def serving(folder: Path) -> Iterator[Registry]:
    """Start one with its storage in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    with open(folder / "registry.log", "wb") as log:
        server = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait(server, address)
        yield Registry(address)
    finally:
        server.terminate()
        server.wait(30)


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/v2/")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.05)
        else:
            return
        finally:
            connection.close()
    raise BenchError("docker-registry does not answer")
