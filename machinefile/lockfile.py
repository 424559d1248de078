"""Machinefile.lock: what the names in a file stood for when somebody last looked.

    {
      "version": 1,
      "platforms": ["linux/amd64"],
      "images": [
        {"name": "debian:bookworm", "platform": "linux/amd64", "digest": "sha256:...", "index": "sha256:..."}
      ],
      "files": [
        {"url": "https://example.org/tool", "checksum": "sha256:..."}
      ],
      "repositories": [
        {"url": "https://example.org/p.git", "ref": "v1", "commit": "...", "name": "refs/tags/v1", "tag": "..."}
      ]
    }

An entry is a line, and the lines are sorted, so that two people who change a lock file seldom meet in one line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields

from machinefile.platform import Platform
from machinefile.values import dataclass

VERSION = 1
"""Raised when an older mbuild would misread the file."""


@dataclass(frozen=True, slots=True)
class ImagePin:
    """What an image's name stands for, for a platform."""

    name: str
    """As people write it, with its tag: `debian:bookworm`."""
    platform: Platform
    digest: str
    """Of the platform's manifest."""
    index: str = ""
    """The digest of the index that has the manifest; empty where the name is the manifest's own."""


@dataclass(frozen=True, slots=True)
class FilePin:
    """What an address has."""

    url: str
    """Without a password."""
    checksum: str
    """`sha256:` and the hex digits."""


@dataclass(frozen=True, slots=True)
class RepositoryPin:
    """What a branch or tag of a git repository stands for."""

    url: str
    """Without a password, query and fragment."""
    ref: str
    """As written; empty for the default branch."""
    commit: str
    name: str = ""
    """The whole name, `refs/heads/main`, where there is one."""
    tag: str = ""
    """The tag object between name and commit, for an annotated tag."""


Pin = ImagePin | FilePin | RepositoryPin


@dataclass(frozen=True, slots=True)
class Lockfile:
    """All pins of a Machinefile."""

    platforms: tuple[Platform, ...] = ()
    """What it was made for."""
    images: tuple[ImagePin, ...] = ()
    files: tuple[FilePin, ...] = ()
    repositories: tuple[RepositoryPin, ...] = ()

    @property
    def pins(self) -> tuple[Pin, ...]:
        """All of them."""
        return (*self.images, *self.files, *self.repositories)

    def render(self) -> str:
        """The file's text: the same for the same pins, in whatever order they come."""
        sections = [
            f'  "version": {VERSION}',
            f'  "platforms": {json.dumps(sorted(map(str, self.platforms)))}',
            *(
                f'  "{name}": {_list(sorted(map(_entry, pins)))}'
                for name, pins in (("images", self.images), ("files", self.files), ("repositories", self.repositories))
            ),
        ]
        return "{\n" + ",\n".join(sections) + "\n}\n"


@dataclass(frozen=True, slots=True)
class Change:
    """A pin that is in one of two lock files, or another in each."""

    pin: Pin
    """The new one, or the old one where there is no new one."""
    old: Pin | None
    new: Pin | None


def changes(old: Lockfile, new: Lockfile) -> tuple[Change, ...]:
    """What is different, in the order of the files."""
    before, after = ({identity_of(pin): pin for pin in lock.pins} for lock in (old, new))
    every = {**before, **after}
    return tuple(
        Change(every[key], before.get(key), after.get(key))
        for key in sorted(every)
        if before.get(key) != after.get(key)
    )


def label_of(pin: Pin) -> str:
    """How messages name what is pinned."""
    match pin:
        case ImagePin():
            return f"{pin.name} for {pin.platform}"
        case FilePin():
            return pin.url
        case RepositoryPin():
            return f"{pin.url}#{pin.ref}" if pin.ref else pin.url


def value_of(pin: Pin) -> str:
    """What it is pinned to: a digest or a commit."""
    match pin:
        case ImagePin():
            return pin.digest
        case FilePin():
            return pin.checksum
        case RepositoryPin():
            return pin.commit


def kind_of(pin: Pin) -> str:
    """`image`, `file` or `repository`."""
    return _KINDS[type(pin)]


_KINDS: Mapping[type[Pin], str] = {ImagePin: "image", FilePin: "file", RepositoryPin: "repository"}


def identity_of(pin: Pin) -> tuple[int, str, str]:
    """What of a pin a lock file has once; sorts as the file does."""
    match pin:
        case ImagePin():
            return (0, pin.name, str(pin.platform))
        case FilePin():
            return (1, pin.url, "")
        case RepositoryPin():
            return (2, pin.url, pin.ref)


def _entry(pin: Pin) -> str:
    """A pin as a line. What it is named by comes first, so that sorted lines are sorted names."""
    given = {field.name: str(getattr(pin, field.name)) for field in fields(pin)}
    needed = ("ref",)  # empty for the default branch
    return json.dumps({name: value for name, value in given.items() if value or name in needed})


def _list(lines: Iterable[str]) -> str:
    text = ",\n".join(f"    {line}" for line in lines)
    return f"[\n{text}\n  ]" if text else "[]"
