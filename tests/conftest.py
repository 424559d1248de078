"""Fixtures for all tests: a real registry on this machine."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import diskcache.core
import pytest
from hypothesis import settings

# The checkout may belong to somebody else, and a failure must not depend on what an earlier run left there.
settings.register_profile("mbuild", database=None, deadline=None)
settings.load_profile("mbuild")

_START_SECONDS = 30.0

# htpasswd -B -b -n ada lovelace
HTPASSWD = "ada:$2b$05$lrCEBG7EXyTHwrgsWz.YHuZ6qkj2sO3oWLqvNiQVmFfByd8msgGaG\n"


@pytest.fixture(scope="session", autouse=True)
def _power_stays_on() -> Iterator[None]:
    """Nothing that runs in the tests' own process waits for the disk: what a process has written, others see anyway,
    even when it is killed. Tests that look at which files are flushed, and when, put functions of their own there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        patch.setitem(diskcache.core.DEFAULT_SETTINGS, "sqlite_synchronous", 0)
        yield


@dataclass(frozen=True)
class Registry:
    """A running registry."""

    address: str
    """`127.0.0.1:PORT`."""
    folder: Path
    """Its storage; blobs under docker/registry/v2/blobs/sha256/."""
    username: str = ""
    password: str = ""

    def copy(self, source: str, name: str) -> str:
        """Fill it by skopeo: `source` as skopeo writes it, `oci:PATH:TAG`; gives the name to pull."""
        argv = ["skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--quiet"]
        argv.append("--dest-tls-verify=false")
        if self.username:
            argv += ["--dest-creds", f"{self.username}:{self.password}"]
        environ = {**os.environ, "HOME": str(self.folder)}  # whatever the user has configured stays out of it
        subprocess.run([*argv, source, f"docker://{self.address}/{name}"], check=True, timeout=60, env=environ)
        return f"{self.address}/{name}"


@contextmanager
def _serving(
    folder: Path, *, login: bool, certificate: tuple[Path, Path] | None = None, auth: str = ""
) -> Iterator[Registry]:
    program = shutil.which("docker-registry")
    if program is None:
        pytest.fail("docker-registry is not installed: run scripts/setup")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    storage = folder / "storage"
    config = [
        "version: 0.1",
        "log: {level: warn}",
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}",
        f"http: {{addr: '{address}'{_tls(certificate)}}}",
    ]
    if login:
        (folder / "htpasswd").write_text(HTPASSWD)
        config.append(f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}")
    if auth:
        config.append(auth)
    (folder / "config.yml").write_text("\n".join(config) + "\n")
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        _wait(server, address, folder / "log", tls=certificate is not None)
        yield Registry(address, storage, *(("ada", "lovelace") if login else ()))
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _tls(certificate: tuple[Path, Path] | None) -> str:
    return f", tls: {{key: '{certificate[0]}', certificate: '{certificate[1]}'}}" if certificate else ""


def _wait(server: subprocess.Popen[bytes], address: str, log: Path, *, tls: bool) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"docker-registry ended at once: {log.read_text(errors='replace')[-2000:]}")
        connection = http.client.HTTPConnection(address, timeout=5)
        if tls:
            connection = http.client.HTTPSConnection(address, timeout=5, context=ssl._create_unverified_context())
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().status in (200, 401):
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    pytest.fail(f"docker-registry did not answer in {_START_SECONDS:g} s")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that asks nobody for a login, one for the whole run: give images names of your own."""
    with _serving(tmp_path_factory.mktemp("registry"), login=False) as running:
        yield running


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a certificate for 127.0.0.1 and localhost that is its own authority."""
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    argv += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return key, certificate


@pytest.fixture
def start_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Registry]]:
    """Starts a registry for one test: `start_registry(login=True)`, or with `certificate=(KEY, CERTIFICATE)`, or with
    a line about `auth` for its configuration."""
    with ExitStack() as stack:

        def start(*, login: bool = False, certificate: tuple[Path, Path] | None = None, auth: str = "") -> Registry:
            folder = tmp_path_factory.mktemp("registry")
            return stack.enter_context(_serving(folder, login=login, certificate=certificate, auth=auth))

        yield start


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes by their number: the processes that run tests side by side must agree on all names, and a gzip header
    has the second in which it was made."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 16 else None
