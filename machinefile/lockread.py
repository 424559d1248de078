"""Reading a lock file, which may be anything: it was merged, edited, or comes from somebody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

from machinefile.errors import UsageError
from machinefile.lockfile import VERSION, FilePin, ImagePin, Lockfile, RepositoryPin, identity_of, label_of
from machinefile.platform import Platform
from machinefile.suggest import did_you_mean

MAX_BYTES = 4 << 20
MAX_ENTRIES = 10_000
"""Of a kind."""
MAX_TEXT = 4096
"""Characters of a name or an address."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REF = re.compile(r"refs(?:/(?![./])[^\x00-\x20\x7f~^:?*\[\\/]+)+")
"""The whole name of a branch or tag, which becomes a path where .git is kept. Source: git-check-ref-format(1)."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def parse_lockfile(data: bytes, path: str) -> Lockfile:
    """Read a lock file. `path` names it in messages.

    Raises UsageError: `lock-invalid`, or `lock-version` for one that a newer mbuild wrote.
    """
    if len(data) > MAX_BYTES:
        raise _invalid(path, f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _invalid(path, _why(error)) from error
    if not isinstance(value, dict):
        raise _invalid(path, "it is not a JSON object")
    version = value.get("version")
    if type(version) is int and version > VERSION:
        raise UsageError(
            f"{path} is a lock file of version {version}; this mbuild knows version {VERSION}",
            code="lock-version",
            hint="use a newer mbuild, or remove the file and run mbuild lock",
        )
    if type(version) is not int or version < 1:
        raise _invalid(path, 'its "version" is missing or not a number')
    try:
        return _lockfile(value)
    except _MistakeError as error:
        raise _invalid(path, str(error)) from error


class _MistakeError(ValueError):
    """What is wrong with a lock file."""


def _lockfile(value: Mapping[str, object]) -> Lockfile:
    known = ("version", "platforms", "images", "files", "repositories")
    _check_names(value, known, known)
    platforms = tuple(_platform(one, "platforms") for one in _items(value, "platforms"))
    lock = Lockfile(
        platforms,
        tuple(_image(*one) for one in _entries(value, "images", ("name", "platform", "digest"), ("index",))),
        tuple(_file(*one) for one in _entries(value, "files", ("url", "checksum"), ())),
        tuple(_repository(*one) for one in _entries(value, "repositories", ("url", "ref", "commit"), ("name", "tag"))),
    )
    seen = set()
    for pin in lock.pins:
        if identity_of(pin) in seen:
            raise _MistakeError(f"it has two entries for {label_of(pin)}")
        seen.add(identity_of(pin))
    if len(set(platforms)) < len(platforms) or not platforms:
        raise _MistakeError('"platforms" is empty, or has one twice')
    return lock


def _image(place: str, entry: Mapping[str, str]) -> ImagePin:
    return ImagePin(
        _text(entry["name"], place),
        _platform(entry["platform"], place),
        _matching(_DIGEST, entry["digest"], f"{place}: digest"),
        _matching(_DIGEST, entry["index"], f"{place}: index") if "index" in entry else "",
    )


def _file(place: str, entry: Mapping[str, str]) -> FilePin:
    return FilePin(_text(entry["url"], place), _matching(_DIGEST, entry["checksum"], f"{place}: checksum"))


def _repository(place: str, entry: Mapping[str, str]) -> RepositoryPin:
    name = _matching(_REF, entry["name"], f"{place}: name") if "name" in entry else ""
    if any(bad in name for bad in ("..", "@{")) or name.endswith("."):
        raise _MistakeError(f"{place}: name is not the whole name of a branch or tag")
    return RepositoryPin(
        _text(entry["url"], place),
        _text(entry["ref"], place) if entry["ref"] else "",
        _matching(_COMMIT, entry["commit"], f"{place}: commit"),
        name,
        _matching(_COMMIT, entry["tag"], f"{place}: tag") if "tag" in entry else "",
    )


def _items(value: Mapping[str, object], name: str) -> list[object]:
    found = value[name]
    if not isinstance(found, list):
        raise _MistakeError(f'"{name}" is not a list')
    if len(found) > MAX_ENTRIES:
        raise _MistakeError(f'"{name}" has more than {MAX_ENTRIES} entries')
    return found


def _entries(
    value: Mapping[str, object], name: str, needed: tuple[str, ...], optional: tuple[str, ...]
) -> Iterable[tuple[str, Mapping[str, str]]]:
    for number, item in enumerate(_items(value, name), 1):
        place = f"entry {number} of {name}"
        if not isinstance(item, dict):
            raise _MistakeError(f"{place} is not an object")
        try:
            _check_names(item, (*needed, *optional), needed)
        except _MistakeError as error:
            raise _MistakeError(f"{place}: {error}") from None
        for key, text in item.items():
            if not isinstance(text, str):
                raise _MistakeError(f'{place}: "{key}" is not a text')
        yield place, item


def _check_names(value: Mapping[str, object], known: tuple[str, ...], needed: tuple[str, ...]) -> None:
    for name in value:
        if name not in known:
            guess = did_you_mean(name, known, "")
            raise _MistakeError(f"{name[:80]!r} is not known here" + (f": {guess}" if guess else ""))
    for name in needed:
        if name not in value:
            raise _MistakeError(f'"{name}" is missing')


def _text(text: str, place: str) -> str:
    if not text or len(text) > MAX_TEXT or _CONTROL.search(text):
        raise _MistakeError(f"{place} has a name that is empty, too long, or has control characters")
    return text


def _matching(pattern: re.Pattern[str], text: str, what: str) -> str:
    if len(text) > MAX_TEXT or not pattern.fullmatch(text):
        raise _MistakeError(f"{what} can't be {text[:80]!r}")
    return text


def _platform(text: object, place: str) -> Platform:
    try:
        found = Platform.parse(text) if isinstance(text, str) and len(text) <= MAX_TEXT else None
    except ValueError:
        found = None
    if found is None or str(found) != text or _CONTROL.search(text):
        raise _MistakeError(f"{place}: {str(text)[:80]!r} is not a platform")
    return found


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _MistakeError("a name is there twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise _MistakeError(f"{name} is no JSON")


def _why(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"line {error.lineno}: {error.msg}"
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case RecursionError():
            return "it is nested too deeply"
    return str(error)[:200]


def _invalid(path: str, reason: str) -> UsageError:
    return UsageError(
        f"{path} is not a lock file: {reason}",
        code="lock-invalid",
        hint="mend it, or remove it and run mbuild lock",
    )
