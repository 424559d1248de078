"""Repositories over HTTPS, from git's own server behind a certificate of its own: names, logins, redirects."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from local_server import LocalServer, QuietHandler

from engine.layers.limits import LayerLimits
from engine.remote.checkout import Checkout
from engine.remote.git import Git
from engine.remote.giturl import parse_git_url
from engine.remote.repository import Repository, find_commit
from machinefile.errors import TransferError, UntrustedDataError

if TYPE_CHECKING:
    from conftest import GitServer, Work

LOGIN = "Basic " + base64.b64encode(b"ada:lovelace").decode()


class HttpsGit(LocalServer):
    """`git http-backend` over a folder of repositories; /private/ asks for a login, /moved/ and /plain/ redirect."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        backend = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip()) / "git-http-backend"
        self.asked: list[str] = []
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802
                outer.asked.append(self.path)
                first, _, rest = self.path[1:].partition("/")
                if first in ("moved", "plain"):
                    self._reply(301, {"Location": f"/{rest}" if first == "moved" else f"http://127.0.0.1:1/{rest}"})
                elif first == "private" and self.headers.get("Authorization") != LOGIN:
                    self._reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
                else:
                    self._backend(f"/{rest}" if first == "private" else self.path)

            def do_POST(self) -> None:  # noqa: N802
                self.do_GET()

            def _backend(self, path: str) -> None:
                parts = urlsplit(path)
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                environ = {"PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(folder), "GIT_HTTP_EXPORT_ALL": "1"}
                environ |= {"PATH_INFO": parts.path, "QUERY_STRING": parts.query, "REQUEST_METHOD": self.command}
                environ |= {"CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body))}
                environ |= {"HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", "")}
                environ |= {"GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "HOME": str(folder)}
                safe = ("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")
                done = subprocess.run(
                    [backend], input=body, env={**environ, **dict(safe)}, capture_output=True, timeout=60
                )
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)
                self._reply(int(headers.pop("Status", "200").split()[0]), headers, content)

            def _reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(Handler)
        self.secure(certificate)

    def repository(self, rest: str, login: str = "") -> str:
        """The address of a repository."""
        return f"https://{login}{self.address}/{rest}"


@pytest.fixture
def https(git_server: GitServer, certificate: tuple[Path, Path]) -> Iterator[HttpsGit]:
    """See HttpsGit; it serves what the git daemon does."""
    with HttpsGit(git_server.folder, certificate) as running:
        yield running


@pytest.fixture
def work(git_server: GitServer) -> Work:
    """A repository with a folder, an annotated tag, and a commit after it."""
    work = git_server.repository()
    work.write("src/main.c", "int main;")
    work.write("README", "one")
    work.commit("one")
    subprocess.run(["git", "-C", work.folder, *WHO, "tag", "-a", "v1", "-m", "first"], check=True)
    work.push("v1")
    work.write("README", "two")
    work.commit("two", "HEAD:refs/heads/main", "HEAD:refs/pull/4/head")
    return work


WHO = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its certificate is believed, whatever this machine has for git alone."""
    monkeypatch.delenv("GIT_SSL_CAINFO", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))


class Fetcher:
    """Fetches into folders of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __call__(self, text: str) -> Checkout:
        """The files that an address names."""
        self._count += 1
        target = self._folder / str(self._count)
        target.mkdir(parents=True)
        git = Git(target, threading.Event(), largest=1 << 24)
        url = parse_git_url(text)
        return Repository(git, target, LayerLimits()).checkout(url, find_commit(git, url), keep_git_dir=False)


@pytest.fixture
def fetch(tmp_path: Path) -> Fetcher:
    """See Fetcher."""
    return Fetcher(tmp_path / "fetched")


def readme(tree: Checkout) -> str:
    with tree.open("README") as file:
        return file.read().decode()


@pytest.mark.usefixtures("trusted")
def test_branches_tags_commits_and_pull_requests_come_over_https(https: HttpsGit, work: Work, fetch: Fetcher) -> None:
    def commit(name: str) -> str:
        return subprocess.check_output(["git", "-C", work.folder, "rev-parse", name], text=True).strip()

    address = https.repository("project.git")
    assert readme(fetch(address)) == "two"
    assert readme(fetch(f"{address}#main")) == "two"
    assert readme(fetch(f"{address}#v1")) == "one"
    assert readme(fetch(f"{address}?tag=v1&checksum={commit('v1^{}')}")) == "one"
    assert readme(fetch(f"{address}?tag=v1&checksum={commit('v1')[:12]}")) == "one"
    assert readme(fetch(f"{address}#{commit('v1^{}')}")) == "one"
    assert readme(fetch(f"{address}#refs/pull/4/head")) == "two"
    assert readme(fetch(f"{address}#pull/4/head")) == "two"
    with pytest.raises(UntrustedDataError) as caught:
        fetch(f"{address}?tag=v1&checksum={commit('HEAD')}")
    assert caught.value.code == "digest-mismatch"


@pytest.mark.usefixtures("trusted")
def test_submodules_come_over_https_too(
    https: HttpsGit, work: Work, git_server: GitServer, fetch: Fetcher, certificate: tuple[Path, Path]
) -> None:
    other = git_server.repository("other.git")
    other.write("inner", "inside")
    other.commit()
    environ = {**os.environ, "GIT_SSL_CAINFO": str(certificate[1])}
    words = ["submodule", "--quiet", "add", https.repository("other.git"), "modules/other"]
    subprocess.run(["git", "-C", work.folder, *words], check=True, timeout=60, env=environ, capture_output=True)
    work.commit("submodule")
    tree = fetch(https.repository("project.git"))
    with tree.open("modules/other/inner") as file:
        assert file.read() == b"inside"
    assert fetch(https.repository("project.git?submodules=false")).entry("modules/other/inner") is None


def test_a_certificate_can_be_named_as_git_has_it(
    https: HttpsGit, work: Work, fetch: Fetcher, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificate[1]))
    assert readme(fetch(https.repository("project.git"))) == "two"


def test_a_certificate_that_nobody_knows_is_said_to_be_the_trouble(
    https: HttpsGit, work: Work, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "GIT_SSL_CAINFO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    with pytest.raises(TransferError, match="certificate") as caught:
        fetch(https.repository("project.git"))
    assert caught.value.code == "git-untrusted-certificate"
    assert "SSL_CERT_FILE" in caught.value.hint


@pytest.mark.usefixtures("trusted")
def test_a_private_repository_is_refused_without_a_prompt_and_the_way_out_is_told(
    https: HttpsGit, work: Work, fetch: Fetcher
) -> None:
    for login in ("", "ada:wrong@"):
        with pytest.raises(TransferError) as caught:
            fetch(https.repository("private/project.git", login))
        assert caught.value.code == "git-refused"
        assert "credentials" in caught.value.hint
        assert "wrong" not in caught.value.message
    assert readme(fetch(https.repository("private/project.git", "ada:lovelace@"))) == "two"


@pytest.mark.usefixtures("trusted")
def test_a_redirect_is_followed_but_never_to_plain_http(https: HttpsGit, work: Work, fetch: Fetcher) -> None:
    assert readme(fetch(https.repository("moved/project.git"))) == "two"
    with pytest.raises(TransferError, match="http"):
        fetch(https.repository("plain/project.git"))
