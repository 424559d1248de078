"""The git program: one gate, where nothing of the user's or the system's configuration and no hook has a say."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from engine.process import running, spawn
from engine.remote.weburl import without_password
from machinefile.errors import InterruptedBuildError, TransferError

_HINT = "install git: apt-get install git, dnf install git or apk add git"
_ALONE = "git is asked without credentials of yours, but for keys that ssh finds itself"
_POLL = 0.05
_WEIGH_SECONDS = 1.0
_OUTPUT = 64 << 20
_LONGEST_QUOTE = 400
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_ADDRESS = re.compile(r"\w+://\S+")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_AUTHORITIES = {
    "GIT_SSL_CAINFO": ("GIT_SSL_CAINFO", "SSL_CERT_FILE"),
    "GIT_SSL_CAPATH": ("GIT_SSL_CAPATH", "SSL_CERT_DIR"),
}
"""Whom git believes, and where the user may say so: git's own names go first."""
_REFUSED = re.compile(
    r"Authentication failed|could not read (?:Username|Password)|terminal prompts disabled|error: 40[13]\b"
    r"|Permission denied \(|Host key verification failed"
)
_UNTRUSTED = re.compile(r"certificate verif|certificate problem|SSL certificate|CAfile")
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.fsmonitor": "false",
    "core.autocrlf": "false",
    "core.symlinks": "true",
    "credential.helper": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "init.defaultBranch": "main",
    "init.templateDir": "",
    "pack.threads": "1",  # the same pack on every machine
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
}


class Git:
    """Runs git. The child and all that it started are killed when the build is cancelled or the time is up."""

    def __init__(self, scratch: Path, cancelled: threading.Event, *, largest: int) -> None:
        """`scratch` is for what git writes; `largest` is how many bytes a repository may have on the disk."""
        self._scratch = scratch
        self._cancelled = cancelled
        self._largest = largest

    def run(
        self,
        *arguments: str,
        timeout: float,
        remote: str = "",
        grows: Path | None = None,
        limit: int = _OUTPUT,
        stdin: bytes = b"",
    ) -> bytes:
        """Run one command and give what it printed. `timeout` in seconds; `remote` is the repository that it may ask:
        without one it reaches none, and no redirect leads it to a weaker protocol; `grows` is the folder that it fills.

        Raises HostError (`program-missing`), InterruptedBuildError, TransferError: `git-failed`, `git-refused` and
        `git-untrusted-certificate` (with git's own words), `git-timeout`, `git-too-large`.
        """
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (
            tempfile.TemporaryFile(dir=self._scratch) as given,
            tempfile.TemporaryFile(dir=self._scratch) as out,
            tempfile.TemporaryFile(dir=self._scratch) as err,
        ):
            given.write(stdin)
            given.seek(0)
            process = spawn(
                ["git", *settings, *arguments],
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=self._scratch,
                extra_environment=self._environment(remote),
                hint=_HINT,
            )
            with _with_helpers(process):
                self._wait(process, arguments, timeout, grows, (out, limit))
            if process.returncode:
                raise _failure(arguments, _content(err, 1 << 16))
            return _content(out, limit)

    def _environment(self, remote: str) -> dict[str, str]:
        found = {name: os.environ[name] for name in _PROXIES if name in os.environ}
        if "SSH_AUTH_SOCK" in os.environ:
            found["SSH_AUTH_SOCK"] = os.environ["SSH_AUTH_SOCK"]
        for name, others in _AUTHORITIES.items():
            if named := next((os.environ[other] for other in others if other in os.environ), ""):
                found[name] = named
        return found | {
            "HOME": str(self._scratch),  # no .netrc, no .config/git
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "false",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=15",
            "GIT_ALLOW_PROTOCOL": _protocols(remote),
        }

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        arguments: tuple[str, ...],
        timeout: float,
        grows: Path | None,
        output: tuple[BinaryIO, int],
    ) -> None:
        deadline = time.monotonic() + timeout
        weigh = time.monotonic() + _WEIGH_SECONDS
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
            now = time.monotonic()
            over = process.returncode is not None
            if os.fstat(output[0].fileno()).st_size > output[1]:
                raise _too_large(arguments, "what it lists", output[1])
            if grows is not None and (now > weigh or over):
                weigh = now + _WEIGH_SECONDS
                if _size(grows) > self._largest:
                    raise _too_large(arguments, "the repository", self._largest)
            if over:
                return
            if self._cancelled.is_set():
                raise InterruptedBuildError
            if now > deadline:
                raise TransferError(
                    f"{_shown(arguments)} did not end in {timeout:g} s",
                    code="git-timeout",
                    hint="try again, or ask who runs the server",
                )


def _protocols(remote: str) -> str:
    """Those that git may use; an empty list allows none."""
    if not remote:
        return ""
    scheme, mark, _ = remote.partition("://")
    if not mark:
        return "ssh"
    return "http:https" if scheme.lower() == "http" else scheme.lower()


@contextmanager
def _with_helpers(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """On leaving early, kills git and what it started: they are one session."""
    with running(process):
        try:
            yield
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _content(file: BinaryIO, limit: int) -> bytes:
    file.seek(0)
    return file.read(limit)


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:  # git renames its packs
                continue
    return total


def _shown(arguments: tuple[str, ...]) -> str:
    """The command as the user would know it, without our folders and settings."""
    words = [word for word in arguments if not word.startswith(("--git-dir", "--work-tree"))]
    return without_password(" ".join(["git", *words]))[:200]


def _failure(arguments: tuple[str, ...], errors: bytes) -> TransferError:
    text = errors.decode(errors="replace").strip()
    lines = [line for line in text.splitlines() if not line.startswith(("warning:", "hint:"))]
    said = _CONTROL.sub(" ", " ".join(lines))[-_LONGEST_QUOTE:]
    said = _ADDRESS.sub(lambda found: without_password(found[0]), said)
    code, hint = "git-failed", "check the address; " + _ALONE
    if _UNTRUSTED.search(said):
        code, hint = "git-untrusted-certificate", "put its authority's certificate into a file, named in SSL_CERT_FILE"
    elif _REFUSED.search(said):
        code, hint = "git-refused", "the repository is private, or is not there: " + _ALONE
    return TransferError(f"{_shown(arguments)} failed: {said or 'no message'}", code=code, hint=hint)


def _too_large(arguments: tuple[str, ...], what: str, limit: int) -> TransferError:
    return TransferError(
        f"{_shown(arguments)}: {what} is larger than {limit} bytes",
        code="git-too-large",
        hint="MBUILD_MAX_LAYER_BYTES sets the limit",
    )
