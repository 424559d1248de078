"""SOURCE_DATE_EPOCH: the one time that an image is to show. Source: reproducible-builds.org, "SOURCE_DATE_EPOCH"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from engine import process
from engine.context import Context
from engine.layers.entry import EntryType
from engine.layers.times import MAX_TIME
from machinefile.errors import HostError, UsageError
from machinefile.ignore import IgnoreRules
from machinefile.values import dataclass

NAME = "SOURCE_DATE_EPOCH"
OPTION = "--source-date-epoch"
_OF_CONTEXT, _OF_COMMIT = "context", "git"
_GIT_TIMEOUT = 120.0
_QUIET_GIT = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_AT_HOME = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
"""These two: git asks and changes nothing, fetches nothing, and starts no program that the repository names for its own
use; for its filters see `_without_filters`."""
_OWN = (b"local", b"worktree")
"""The scopes of what a repository's own files configure, which came with it."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """The time of an image."""

    seconds: int
    """Since 1970: 0 to MAX_TIME."""
    note: str = ""
    """What the user should know of where it came from."""


def find_epoch(
    option: str | None,
    arguments: Mapping[str, str],
    environment: Mapping[str, str],
    context: Path,
    ignore: IgnoreRules,
) -> Epoch | None:
    """The time that was asked for: by the option, else by the build argument, else by the environment; None if by none
    of them, or if the first of the latter two that is there is empty.

    Raises UsageError (`source-date-epoch`); MachinefileError for a context that cannot be read; HostError
    (`program-missing`) without git.
    """
    if option == _OF_CONTEXT:
        return Epoch(_newest(context, ignore))
    if option == _OF_COMMIT:
        return _commit(context)
    if option is not None:
        return Epoch(_number(option, f"{OPTION}={option}"))
    for given, shown in ((arguments, f"--build-arg {NAME}"), (environment, f"{NAME} in the environment")):
        if NAME in given:
            text = given[NAME]
            return Epoch(_number(text, f"{shown}: {text!r}")) if text else None
    return None


def _number(text: str, shown: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TIME)) and int(text) <= MAX_TIME:
        return int(text)
    raise UsageError(
        f"{shown} is no number of seconds since 1970, from 0 to {MAX_TIME}",
        code="source-date-epoch",
        hint=f"for example {OPTION}=1700000000; or {_OF_CONTEXT} for the newest file's, {_OF_COMMIT} for the commit's",
    )


def _newest(root: Path, ignore: IgnoreRules) -> int:
    """When the file of the context that was changed last was changed."""
    context = Context(root, ignore)
    folders, newest = [""], None
    while folders:
        folder = folders.pop()
        for name in context.children(folder):
            path = f"{folder}/{name}" if folder else name
            entry = context.entry(path)
            if entry is not None and entry.type is EntryType.DIRECTORY:
                folders.append(path)
            elif entry is not None and entry.type is EntryType.FILE:
                time = context.modified(path)
                newest = time if newest is None else max(newest, time)
    if newest is None:
        raise UsageError(
            f"{OPTION}={_OF_CONTEXT}: there is no file in the build context {root}",
            code="source-date-epoch",
            hint=f"name a number: {OPTION}=1700000000",
        )
    return _number(str(newest), f"{OPTION}={_OF_CONTEXT}: {newest}")


def _commit(context: Path) -> Epoch:
    """When the commit that the context is at was made."""
    told = _git(context, "log", "-1", "--no-show-signature", "--format=%ct", "HEAD").strip()
    seconds = _number(told, f"{OPTION}={_OF_COMMIT}: {told}")
    status = ("status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=dirty", "--", ".")
    changed = _git(context, *status, extra=_without_filters(context))
    note = f"{OPTION}={_OF_COMMIT}: {os.path.normpath(context)} has changes that are not in the commit"
    return Epoch(seconds, note if changed else "")


def _without_filters(context: Path) -> dict[str, str]:
    """An environment in which the filters that the repository itself configures are none: status would start them.

    What is inside its submodules, which have configurations of their own, is not looked at for the same reason.
    """
    told = os.fsencode(_git(context, "config", "--show-scope", "--null", "--list"))
    words = told.split(b"\0")
    names = {
        key.partition(b"\n")[0].rpartition(b".")[0]
        for scope, key in zip(words[::2], words[1::2], strict=False)
        if scope in _OWN and key.startswith(b"filter.")
    }
    none = [
        (os.fsdecode(name) + variable, value)
        for name in sorted(names)
        for variable, value in ((".clean", ""), (".process", ""), (".required", "false"))
    ]
    found = {"GIT_CONFIG_COUNT": str(len(none))}
    for number, (key, value) in enumerate(none):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _git(context: Path, *arguments: str, extra: Mapping[str, str] = MappingProxyType({})) -> str:
    hint = "install git: apt-get install git, dnf install git or apk add git"
    try:
        told = process.run(
            ["git", *_QUIET_GIT, *arguments],
            timeout=_GIT_TIMEOUT,
            hint=hint,
            cwd=context,
            extra_environment={**_AT_HOME, **extra},
        )
    except HostError as error:
        if error.code == "program-missing":
            raise
        raise UsageError(
            f"{OPTION}={_OF_COMMIT}: {error.message}",
            code="source-date-epoch",
            hint=f"the build context has to be in a git repository with a commit; or name a number: {OPTION}=N",
        ) from error
    return os.fsdecode(told)
