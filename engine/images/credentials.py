"""Where users keep their registry passwords: the configuration files of docker and podman, and credential helpers.

Looked for in this order; the first file that knows the registry decides:

    $REGISTRY_AUTH_FILE
    $DOCKER_CONFIG/config.json, else ~/.docker/config.json
    $XDG_RUNTIME_DIR/containers/auth.json
    $XDG_CONFIG_HOME/containers/auth.json, else ~/.config/containers/auth.json
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from engine import process
from engine.images.jsonvalue import JsonObject
from engine.images.reference import DEFAULT_REGISTRY
from machinefile.errors import HostError, UntrustedDataError, UsageError
from machinefile.values import dataclass

_MAX_CONFIG_BYTES = 4 << 20
_HELPER_SECONDS = 60.0
_HUB_SERVER = "https://index.docker.io/v1/"
_HUB_KEYS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_TOKEN_USER = "<token>"  # noqa: S105 - the name by which a helper says that its secret is an identity token
_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name with a password, or an identity token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The Authorization header of basic authentication."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"


class CredentialStore:
    """Finds the credentials of a registry."""

    def __init__(self, files: tuple[Path, ...]) -> None:
        self._files = files

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> CredentialStore:
        """The files named above, by these variables (the process's own by default)."""
        found = os.environ if environ is None else environ
        home = Path(found.get("HOME") or "/nonexistent")
        files = []
        if explicit := found.get("REGISTRY_AUTH_FILE"):
            files.append(Path(explicit))
        files.append(Path(found.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
        if runtime := found.get("XDG_RUNTIME_DIR"):
            files.append(Path(runtime) / "containers" / "auth.json")
        files.append(Path(found.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json")
        return cls(tuple(files))

    def lookup(self, registry: str, repository: str = "") -> Credentials | None:
        """The credentials for a registry, or None to go without.

        Raises UsageError (`auth-config-invalid`) for a file that cannot be read, HostError (`program-missing`,
        `credential-helper-failed`) for a helper that does not do its work.
        """
        for file in self._files:
            fields = _read(file)
            if fields is not None:
                try:
                    found = _from_file(fields, registry, repository)
                except UntrustedDataError as error:
                    raise _invalid(file, error.message) from error
                if found is not None:
                    return found
        return None


def _read(file: Path) -> JsonObject | None:
    try:
        data = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        # HOME may be another user's when privileges were dropped: what may not be read is not ours.
        return None
    except OSError as error:
        raise _invalid(file, str(error.strerror)) from error
    try:
        return JsonObject.parse(data, str(file), "auth-config-invalid", _MAX_CONFIG_BYTES)
    except UntrustedDataError as error:
        raise _invalid(file, error.message) from error


def _invalid(file: Path, reason: str) -> UsageError:
    return UsageError(
        f"the registry credentials in {file} cannot be read: {reason}",
        code="auth-config-invalid",
        hint="mend or remove the file, or name another with DOCKER_CONFIG or REGISTRY_AUTH_FILE",
    )


def _from_file(fields: JsonObject, registry: str, repository: str) -> Credentials | None:
    """Docker's order: the registry's own helper, else the helper for all; what no helper knows stands in `auths`."""
    helpers = {_hostname(name): helper for name, helper in fields.pairs("credHelpers")}
    helper = helpers.get(registry) or fields.text("credsStore")
    if helper:
        found = _ask_helper(helper, _HUB_SERVER if registry == DEFAULT_REGISTRY else registry)
        if found is not None:
            return found
    return _from_auths(fields.child("auths"), registry, repository)


def _from_auths(auths: JsonObject, registry: str, repository: str) -> Credentials | None:
    """An entry may be for a part of a registry (`host/team`): the longest that fits wins."""
    keys = {_normalised(name): name for name in auths.fields}
    parts = f"{registry}/{repository}".rstrip("/").split("/")
    for length in range(len(parts), 0, -1):
        name = keys.get("/".join(parts[:length]))
        found = _entry(auths.child(name)) if name is not None else None
        if found is not None:
            return found
    return None


def _entry(fields: JsonObject) -> Credentials | None:
    username, password = fields.text("username"), fields.text("password")
    if packed := fields.text("auth"):
        try:
            text = base64.b64decode(packed, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise fields.wrong("auth", "is not base64") from error
        username, colon, password = text.partition(":")
        if not colon:
            raise fields.wrong("auth", "has no colon between user name and password")
        password = password.rstrip("\0")
    token = fields.text("identitytoken")
    return Credentials(username, password, token) if username or token else None


def _normalised(name: str) -> str:
    """`https://HOST/v1/` is `HOST`; `HOST/team` stays."""
    bare = re.sub(r"^https?://", "", name).rstrip("/")
    host, _, path = bare.partition("/")
    if path in ("v1", "v2"):
        path = ""
    return f"{_hostname(host)}/{path}".rstrip("/")


def _hostname(name: str) -> str:
    host = re.sub(r"^https?://", "", name).partition("/")[0]
    return DEFAULT_REGISTRY if host in _HUB_KEYS else host


def _ask_helper(helper: str, server: str) -> Credentials | None:
    if not _HELPER_NAME.fullmatch(helper):
        raise UsageError(
            f"{helper!r} is not the name of a credential helper",
            code="auth-config-invalid",
            hint="credsStore and credHelpers hold the part after docker-credential-",
        )
    program = f"docker-credential-{helper}"
    # Helpers speak to desktops and clouds by way of variables that nobody can list: they get all of them.
    child = process.spawn(
        [program, "get"],
        stdin=subprocess.PIPE,
        extra_environment={**os.environ, "PATH": process.environment()["PATH"]},
        hint=f"install {program}, or remove it from the registry credentials file",
    )
    with process.running(child):
        try:
            output, errors = child.communicate(f"{server}\n".encode(), timeout=_HELPER_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise _helper_failed(program, f"no answer in {_HELPER_SECONDS:g} s") from error
    if child.returncode:
        text = (output + errors).decode(errors="replace").strip()
        if "not found" in text.lower():
            return None
        raise _helper_failed(program, text or f"exit code {child.returncode}")
    return _helper_answer(program, output)


def _helper_answer(program: str, output: bytes) -> Credentials | None:
    try:
        answer = json.loads(output)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError) as error:
        raise _helper_failed(program, "its answer is not what the protocol asks for") from error
    if username == _TOKEN_USER:
        return Credentials(identity_token=str(secret))
    return Credentials(str(username), str(secret)) if username else None


def _helper_failed(program: str, reason: str) -> HostError:
    return HostError(
        f"the credential helper {program} failed: {reason}",
        code="credential-helper-failed",
        hint="log in again, or remove it from the registry credentials file",
    )
