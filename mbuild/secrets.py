"""--secret, as docker buildx reads it, and with `version=`.

Source: buildx's parser (buildflags.ParseSecretSpecs) and BuildKit's secretsprovider.NewStore.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.secrets import MAX_BYTES, SHORTEST, Secrets
from machinefile.commas import QuotesError, split_commas
from machinefile.errors import UsageError

_HINT = "write it as --secret id=ID,src=FILE or --secret id=ID,env=VARIABLE"
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:-]{0,63}")


def read_secrets(values: Sequence[str], environment: Mapping[str, str] = os.environ) -> Secrets:
    """Every secret, read now; the last of an id counts. Raises UsageError (`bad-secret`, `secret-unreadable`)."""
    found: dict[str, bytes] = {}
    versions: dict[str, str | None] = {}
    for value in values:
        options = _options(value)
        secret_id, content = _read(options, environment)
        if len(content) > MAX_BYTES:
            raise UsageError(
                f"the secret {secret_id!r} is larger than {MAX_BYTES >> 10} KiB",
                code="secret-too-large",
                hint="mount a larger file with --build-context, if it need not be kept secret",
            )
        found[secret_id] = content
        versions[secret_id] = _version(options, content)
    given = tuple((secret_id, version) for secret_id, version in versions.items() if version is not None)
    return Secrets(tuple(found.items()), given)


def _version(options: Mapping[str, str], content: bytes) -> str | None:
    version = options.get("version")
    if version is None:
        return None
    if not _VERSION.fullmatch(version):
        raise _bad("the version is a short word such as 3 or 2026-05: letters, digits and . _ + : -")
    secret = content.strip()
    if version.encode() == secret or (len(secret) >= SHORTEST and secret in version.encode()):
        raise _bad(
            "the version holds the secret itself: it is to be a word that nobody need hide, such as 3 or 2026-05"
        )
    return version


def _read(options: Mapping[str, str], environment: Mapping[str, str]) -> tuple[str, bytes]:
    secret_id, kind = options.get("id", ""), options.get("type", "")
    path, variable = options.get("src", ""), options.get("env", "")
    if kind not in ("", "file", "env"):
        raise _bad("the type is file or env")
    if not secret_id:
        raise _bad("the id is missing")
    if kind == "env" and not variable:
        path, variable = "", path
    if not path and not variable:
        # With nothing but an id, a variable of that name is meant, or else a file.
        path, variable = ("", secret_id) if secret_id in environment else (secret_id, "")
    return secret_id, _file(secret_id, path) if path else os.fsencode(environment.get(variable, ""))


def _options(value: str) -> dict[str, str]:
    try:
        fields = split_commas(value)
    except QuotesError:
        raise _bad("its quotes do not match") from None
    options: dict[str, str] = {}
    for field in fields:
        name, equals, text = field.partition("=")
        name = "src" if name.lower() == "source" else name.lower()
        if not equals:
            raise _bad("a part of it is not NAME=VALUE")
        if name not in ("id", "type", "src", "env", "version"):
            raise _bad("it has a part that is none of id, type, src, env, version")
        options[name] = text
    return options


def _file(secret_id: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"the secret {secret_id!r} cannot be read from {path}: {error.strerror}",
            code="secret-unreadable",
            hint=_HINT,
        ) from error


def _bad(why: str) -> UsageError:
    # What was written is not repeated: it may be the secret itself.
    return UsageError(f"--secret: {why}", code="bad-secret", hint=_HINT)
