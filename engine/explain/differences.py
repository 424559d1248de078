"""What two records differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest

from cache.keys import VERSION, Record, Value
from cache.records import KeptRecord
from engine.explain.files import FilesDifference, compare_copied, compare_listings
from machinefile.values import dataclass

_MOUNT_PARTS = (
    *("type", "target", "from", "files", "source", "readonly", "id", "sharing", "required", "env"),
    "mode, uid, gid, size",
)
"""The places of a mount in a record: see engine/records.py."""
_FILES = 3


@dataclass(frozen=True, slots=True)
class ArgumentDifference:
    """Another word of a RUN's command."""

    number: int
    """From 0."""
    old: str | None
    """None where the command had no such word."""
    new: str | None
    script: bool = False
    """Whether it is what a shell is given to carry out: the RUN as it was written."""


@dataclass(frozen=True, slots=True)
class PairDifference:
    """Another value under a name: a variable, a name for etc/hosts, a heredoc."""

    field: str
    """`environment`, `hosts`, `files`, `inline`."""
    name: str
    old: str | None
    """None where the name was not there."""
    new: str | None


@dataclass(frozen=True, slots=True)
class MountDifference:
    """A mount that is new, is gone, or is another."""

    target: str
    part: str
    """What of it; empty for the whole."""
    old: Value
    new: Value


@dataclass(frozen=True, slots=True)
class StepDifference:
    """Other files to stand on or to read from: the key of another step."""

    number: int
    """-1 for the parent; of the inputs, the place from 0."""
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """Anything else that a record has under a name."""

    name: str
    old: Value
    new: Value


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """Another version of mbuild's keys."""

    old: int
    new: int


Difference = (
    ArgumentDifference
    | PairDifference
    | MountDifference
    | FilesDifference
    | StepDifference
    | SettingDifference
    | VersionDifference
)


def compare(old: KeptRecord, new: Record, places: Mapping[str, str] | None = None) -> tuple[Difference, ...]:
    """Every field that differs, each named at least once. `places` gives the folder of a copied file, by the name that
    it has in the record."""
    found: list[Difference] = []
    if old.version != VERSION:
        found.append(VersionDifference(old.version, VERSION))
    if old.operation != new.operation:
        found.append(SettingDifference("operation", old.operation, new.operation))
    fields = dict(new.fields)
    for name in dict.fromkeys((*fields, *old.fields)):
        before, after = old.fields.get(name), fields.get(name)
        if before == after and type(before) is type(after) and (name in fields) == (name in old.fields):
            continue
        found += list(_field(new.operation, name, before, after, places or {})) or [
            SettingDifference(name, before, after)
        ]
    return tuple(found)


def _field(operation: str, name: str, old: Value, new: Value, places: Mapping[str, str]) -> Iterator[Difference]:
    match operation, name:
        case _, "argv":
            yield from _arguments(old, new)
        case _, "environment" | "hosts" | "inline":
            yield from _pairs(name, old, new)
        case "run", "files":
            yield from _pairs(name, old, new)
        case _, "files":
            yield from compare_copied(old, new, places)
        case _, "mounts":
            yield from _mounts(old, new)
        case _, "parent":
            yield StepDifference(-1, _text(old), _text(new))
        case _, "inputs" if isinstance(old, tuple | None) and isinstance(new, tuple | None):
            for number, (before, after) in enumerate(zip_longest(old or (), new or ())):
                if before != after:
                    yield StepDifference(number, _text(before), _text(after))


def _arguments(old: Value, new: Value) -> Iterator[Difference]:
    before, after = _texts(old), _texts(new)
    if before is None or after is None:
        return
    shell = len(before) == len(after) > 2 and before[:-1] == after[:-1]
    for number, (one, other) in enumerate(zip_longest(before, after)):
        if one != other:
            yield ArgumentDifference(number, one, other, shell and number == len(after) - 1)


def _pairs(field: str, old: Value, new: Value) -> Iterator[Difference]:
    before, after = _named(old), _named(new)
    if before is None or after is None:
        return
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield PairDifference(field, name, before.get(name), after.get(name))


def _mounts(old: Value, new: Value) -> Iterator[Difference]:
    before, after = _by_target(old), _by_target(new)
    if before is None or after is None:
        return
    for target in dict.fromkeys((*before, *after)):
        one, other = before.get(target), after.get(target)
        if one is None or other is None:
            yield MountDifference(target, "", one and one[0], other and other[0])
        elif one != other:
            yield from _mount(target, one, other)


def _mount(target: str, old: tuple[Value, ...], new: tuple[Value, ...]) -> Iterator[Difference]:
    for number, (before, after) in enumerate(zip_longest(old, new)):
        if before == after:
            continue
        if number == _FILES and isinstance(before, tuple) and isinstance(after, tuple):
            files = compare_listings(before[1:], after[1:], f"mount {target}")
            if files is not None:
                yield files
            if files is None or before[:1] != after[:1]:
                yield MountDifference(target, "the mode of its folder", before[0], after[0])
            continue
        part = _MOUNT_PARTS[number] if number < len(_MOUNT_PARTS) else f"part {number}"
        yield MountDifference(target, part, before, after)


def _by_target(value: Value) -> dict[str, tuple[Value, ...]] | None:
    if not isinstance(value, tuple | None):
        return None
    found: dict[str, tuple[Value, ...]] = {}
    for mount in value or ():
        match mount:
            case (str(), str(target), *_) if isinstance(mount, tuple) and target not in found:
                found[target] = mount
            case _:
                return None
    return found


def _named(value: Value) -> dict[str, str] | None:
    """Pairs by their names; None for what is something else, or has a name twice."""
    if not isinstance(value, tuple | None):
        return None
    found: dict[str, str] = {}
    for pair in value or ():
        match pair:
            case (str(name), str(text)) if name not in found:
                found[name] = text
            case _:
                return None
    return found


def _texts(value: Value) -> tuple[str, ...] | None:
    if value is None:
        return ()
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return tuple(one for one in value if isinstance(one, str))
    return None


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) else None
