"""Addresses of git repositories as ADD takes them: `https://host/x.git#REF:SUBDIR`, `git@host:x?tag=v1&subdir=src`.

Source: BuildKit's dfgitutil and gitutil, and Docker's documentation of URL queries and fragments.
"""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import parse_qsl, unquote, urlsplit

from engine.remote.weburl import without_password
from machinefile.errors import MachinefileError
from machinefile.paths import relative
from machinefile.suggest import did_you_mean
from machinefile.values import dataclass

_SCHEMES = ("https", "http", "ssh", "git")
_SCP = re.compile(r"([A-Za-z0-9_][\w.-]*)@([A-Za-z0-9][A-Za-z0-9.-]*):([^\s?#]+)")
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[-/]|[/.]$")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_KEYS = ("ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules")
_SWITCHES = {"": True, "1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


@dataclass(frozen=True, slots=True)
class GitUrl:
    """A repository, and what of it is wanted."""

    remote: str
    """As the git program takes it."""
    ref: str = ""
    """A branch, a tag, a whole name such as `refs/pull/4/head`, or a commit; empty for the default branch."""
    subdir: str = ""
    """Relative and clean; empty for the whole."""
    checksum: str = ""
    """What the commit's name must begin with."""
    keep_git_dir: bool | None = None
    """None where the address does not say."""
    submodules: bool = True

    @property
    def shown(self) -> str:
        """For messages, and for the .git of an image: without a password."""
        return without_password(self.remote)


def is_commit(text: str) -> bool:
    """Whether it is the whole name of a commit."""
    return _COMMIT.fullmatch(text) is not None


def is_ref_name(text: str) -> bool:
    """Whether it is the whole name of a branch, a tag or the like, and no path that leads elsewhere."""
    return text.startswith("refs/") and not _BAD_REF.search(text)


def parse_git_url(text: str) -> GitUrl:
    """Read an address. Raises MachinefileError (`bad-git-url`)."""
    rest, _, fragment = text.partition("#")
    address, _, query = rest.partition("?")
    ref, _, subdir = unquote(fragment).partition(":")
    url = _with_query(GitUrl(check_remote(address), ref), _subdir(subdir), query, text)
    if url.checksum and not url.ref:
        url = replace(url, ref=url.checksum if is_commit(url.checksum) else "")
    if url.ref and _BAD_REF.search(url.ref):
        raise _bad(text, f"{url.ref!r} is not the name of a branch, a tag or a commit")
    return url


def check_remote(address: str) -> str:
    """An address without query and fragment that the git program may be given. Raises MachinefileError."""
    if _SCP.fullmatch(address):
        return address
    if re.search(r"[\x00-\x20\x7f]", address):
        raise _bad(address, "it has spaces or control characters")
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
    except ValueError as error:
        raise _bad(address, str(error)) from error
    if parts.scheme.lower() not in _SCHEMES:
        raise _bad(address, f"it begins with none of {', '.join(f'{scheme}://' for scheme in _SCHEMES)} and git@")
    if not host or host.startswith("-") or not parts.path.strip("/"):
        raise _bad(address, "it names no repository")
    return address


def join_remote(base: str, address: str) -> str:
    """A submodule's address, which may be relative to its repository's. Source: gitmodules(5), git-submodule(1)."""
    if not address.startswith(("./", "../")):
        return address
    base = base.rstrip("/")
    while address.startswith(("./", "../")):
        if address.startswith("./"):
            address = address[2:]
            continue
        address = address[3:]
        cut = max(base.rfind("/"), base.rfind(":"))
        base = base[: cut if base[cut] == "/" else cut + 1] if cut >= 0 else ""
    return f"{base}{address}" if base.endswith(":") else f"{base}/{address}"


def _with_query(url: GitUrl, subdir: str, query: str, text: str) -> GitUrl:
    given: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _KEYS:
            raise _bad(text, f"{key!r} is not known here", did_you_mean(key, _KEYS, f"known are {', '.join(_KEYS)}"))
        if key in given:
            raise _bad(text, f"{key} is given twice")
        if not value and key not in ("keep-git-dir", "submodules"):
            raise _bad(text, f"{key} has no value")
        given[key] = value
    named = [url.ref] if url.ref else []
    named += [given["ref"]] if "ref" in given else []
    named += [_prefixed("refs/tags/", given["tag"])] if "tag" in given else []
    named += [_prefixed("refs/heads/", given["branch"])] if "branch" in given else []
    subdirs = [found for found in (subdir, _subdir(given.get("subdir", ""))) if found]
    checksums = [given[key] for key in ("checksum", "commit") if key in given]
    for what, values in (("ref", named), ("subdir", subdirs), ("checksum", checksums)):
        if len(set(values)) > 1:
            raise _bad(text, f"it names more than one {what}: {' and '.join(sorted(set(values)))}")
    checksum = checksums[0] if checksums else ""
    if checksum and not re.fullmatch(r"[0-9a-f]{7,64}", checksum):
        raise _bad(text, f"{checksum!r} is not the beginning of a commit's name")
    return replace(
        url,
        ref=named[0] if named else "",
        subdir=subdirs[0] if subdirs else "",
        checksum=checksum,
        keep_git_dir=_switch("keep-git-dir", given, text),
        submodules=_switch("submodules", given, text) is not False,
    )


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def _subdir(text: str) -> str:
    found = relative(text) if text else ""
    return "" if found == "." else found


def _switch(key: str, given: dict[str, str], text: str) -> bool | None:
    if key not in given:
        return None
    value = _SWITCHES.get(given[key].lower())
    if value is None:
        raise _bad(text, f"{key} is true or false, not {given[key]!r}")
    return value


def _bad(text: str, reason: str, hint: str = "") -> MachinefileError:
    return MachinefileError.one(
        f"{without_password(text)[:200]} is not the address of a git repository: {reason}",
        code="bad-git-url",
        hint=hint or "for example https://example.org/project.git#v1.2:folder",
    )
