"""What two lists of files differ in: those that a COPY takes, or that a mount shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from cache.keys import Value
from machinefile.values import dataclass

MOST = 1000
"""Files that a difference names."""


class Change(Enum):
    """What happened to a file."""

    ADDED = "added"
    REMOVED = "removed"
    CONTENT = "content"
    MODE = "mode"
    TYPE = "type"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class FileDifference:
    """One file."""

    path: str
    """As far as the record knows it: below what the COPY names."""
    change: Change
    old: str = ""
    """CONTENT: the sha256 in hex; MODE: octal; TYPE: the type; LINK: the target."""
    new: str = ""


@dataclass(frozen=True, slots=True)
class FilesDifference:
    """The files that differ, sorted by path."""

    files: tuple[FileDifference, ...]
    where: str = ""
    """Empty for what a COPY takes; `mount TARGET`."""
    more: int = 0
    """How many differ beside these."""


_Listed = dict[tuple[str, int], tuple[Value, ...]]
"""Path, and how often it came before -> type, mode, about."""


def compare_copied(old: Value, new: Value, places: Mapping[str, str]) -> Iterator[FilesDifference]:
    """The files of two COPYs; nothing where that is not all that differs."""
    before, after = _copied(old, places), _copied(new, places)
    if before is not None and after is not None:
        found = _compare(before, after, "")
        if found is not None:
            yield found


def compare_listings(old: Iterable[Value], new: Iterable[Value], where: str) -> FilesDifference | None:
    """The files of two listings as engine/records.py makes them; None when none differ, or it is no listing."""
    before, after = _listed(old), _listed(new)
    return None if before is None or after is None else _compare(before, after, where)


def _compare(old: _Listed, new: _Listed, where: str) -> FilesDifference | None:
    changed = sorted({*old.items(), *new.items()} - (old.items() & new.items()), key=lambda item: item[0])
    found: list[FileDifference] = []
    for name in dict.fromkeys(name for name, _ in changed):
        found += _changes(name[0], old.get(name), new.get(name))
    more = max(0, len(found) - MOST)
    return FilesDifference(tuple(found[:MOST]), where, more) if found else None


def _changes(path: str, old: tuple[Value, ...] | None, new: tuple[Value, ...] | None) -> Iterator[FileDifference]:
    if old is None or new is None:
        kind = Change.ADDED if old is None else Change.REMOVED
        yield FileDifference(path, kind, _about(old), _about(new))
        return
    if old[0] != new[0]:
        yield FileDifference(path, Change.TYPE, str(old[0]), str(new[0]))
        return
    if old[2] != new[2]:
        kind = Change.LINK if new[0] == "symlink" else Change.CONTENT
        yield FileDifference(path, kind, _about(old), _about(new))
    if old[1] != new[1]:
        yield FileDifference(path, Change.MODE, _octal(old[1]), _octal(new[1]))


def _copied(value: Value, places: Mapping[str, str]) -> _Listed | None:
    found: _Listed = {}
    if not isinstance(value, tuple | None):
        return None
    for source in value or ():
        match source:
            case (str(name), tuple(listing), *rest):
                place = "/".join(filter(None, (places.get(name, ""), name)))
                files = _listed(listing, place)
                if files is None:
                    return None
                for number, (mode, above) in enumerate(_modes(rest, place)):
                    files[above, -1 - number] = ("directory", mode, "")
                for (path, count), about in files.items():
                    while count >= 0 and (path, count) in found:
                        count += 1
                    found[path, count] = about
            case _:
                return None
    return found


def _modes(rest: Iterable[Value], place: str) -> Iterator[tuple[Value, str]]:
    """The modes of the folders that a COPY --parents makes on the way, outermost first."""
    parts = place.split("/")
    for modes in rest:
        if isinstance(modes, tuple):
            yield from ((mode, "/".join(parts[: number + 1])) for number, mode in enumerate(modes))


def _listed(listing: Iterable[Value], place: str = "") -> _Listed | None:
    found: _Listed = {}
    for file in listing:
        match file:
            case (str(below), str(kind), int(mode), about):
                path = "/".join(filter(None, (place, below))) or "."
                found[path, 0] = (kind, mode, about)
            case _:
                return None
    return found


def _about(file: tuple[Value, ...] | None) -> str:
    if file is None:
        return ""
    match file[2]:
        case str(text):
            return text
        case (str(words), str(first)):
            return f"{words} {first}"
    return ""


def _octal(mode: Value) -> str:
    return f"{mode:o}" if isinstance(mode, int) else ""
