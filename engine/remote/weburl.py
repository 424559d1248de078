"""Addresses of files on web servers."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from machinefile.errors import MachinefileError

_USER = re.compile(r"(?<=://)[^/?#@]*@")
_LONGEST_NAME = 255
_UNNAMED = "__unnamed__"


def without_password(address: str) -> str:
    """An address as it may be shown: what stands before the host's `@` is a secret, but for git's plain user names."""

    def hide(found: re.Match[str]) -> str:
        return found[0] if ":" not in found[0] else "***@"

    return _USER.sub(hide, address)


def file_name(address: str) -> str:
    """The name that a file gets in a directory: the last part of the path, percent signs decoded.

    An address without a path gives `__unnamed__`. The server's Content-Disposition does not count. Source: BuildKit,
    dockerfile2llb. Raises MachinefileError (`bad-url`).
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        raise _bad(address, str(error)) from error
    if not host:
        raise _bad(address, "it names no host")
    name = unquote(parts.path, errors="surrogateescape").rstrip("/").rpartition("/")[2]
    if name in ("", ".", ".."):
        return _UNNAMED
    if "\0" in name or len(name.encode("utf-8", "surrogateescape")) > _LONGEST_NAME:
        raise _bad(address, "its last part cannot name a file")
    return name


def _bad(address: str, reason: str) -> MachinefileError:
    return MachinefileError.one(
        f"{without_password(address)[:200]} is not the address of a file: {reason}",
        code="bad-url",
        hint="for example https://example.org/file.tar.gz",
    )
