"""The packages that are installed in an image, read from its layers: dpkg, apk, Python, npm.

What is read was written by whoever made the image. It is bounded in the number and size of files and packages, and what
makes no sense is left out and counted, so that a list says when it may not be all.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol
from urllib.parse import quote

from engine.attest import readers
from engine.layers.content import LayerFiles
from engine.layers.root import Located, RootView
from machinefile.errors import InterruptedBuildError
from machinefile.values import dataclass

MAX_FILES = 100_000
MAX_FILE_BYTES = 64 << 20
MAX_TOTAL_BYTES = 512 << 20
MAX_PACKAGES = 200_000

_MOST_SENSELESS = 1000
"""Parts of a file that make no sense, before the rest of it is given up."""
_SMALL = 1 << 20
"""Bytes read of a file that is about one package."""
_READERS: tuple[tuple[re.Pattern[str], readers.Reader, int], ...] = (
    (re.compile(r"var/lib/dpkg/status"), readers.dpkg, MAX_FILE_BYTES),
    (re.compile(r"var/lib/dpkg/status\.d/[^/]+(?<!\.md5sums)"), readers.dpkg, _SMALL),
    (re.compile(r"lib/apk/db/installed|usr/lib/apk/db/installed"), readers.apk, MAX_FILE_BYTES),
    (re.compile(r"(?:.*/)?[^/]+\.dist-info/METADATA"), readers.python, _SMALL),
    (re.compile(r"(?:.*/)?[^/]+\.egg-info/PKG-INFO"), readers.python, _SMALL),
    (re.compile(r"(?:.*/)?node_modules/(?:@[^/]+/)?[^/@][^/]*/package\.json"), readers.npm, _SMALL),
)
_ENDS = ("status", "/installed", "/METADATA", "/PKG-INFO", "/package.json")
_RELEASES = ("usr/lib/os-release", "etc/os-release")
"""The second wins, and is a link to the first on most systems."""


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """A package that an image has."""

    kind: str
    """As package URLs have it: `deb`, `apk`, `pypi`, `npm`."""
    name: str
    version: str
    architecture: str
    purl: str
    path: str
    """The file that tells of it, relative to the root."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The packages of an image."""

    packages: tuple[Package, ...]
    """Sorted."""
    unread: int = 0
    """Files that should tell of packages and were left out, in whole or in part: too many, too large, damaged."""


class _Readable(Protocol):
    left: int

    def read(self, size: int = -1, /) -> bytes: ...


def inventory(root: RootView, files: LayerFiles, cancelled: threading.Event | None = None) -> Inventory:
    """What is installed in the merged file system of layers. Raises UntrustedDataError for a layer that cannot be
    read, InterruptedBuildError."""
    stop = cancelled or threading.Event()
    found = list(_wanted(root))
    wanted = found[:MAX_FILES]
    unread, left = len(found) - len(wanted), MAX_TOTAL_BYTES
    release: dict[str, Mapping[str, str]] = {}
    facts: list[tuple[str, readers.Fact]] = []
    for entries, content in files.stream([*wanted, *_releases(root)]):
        paths = sorted(one.entry.path for one in entries)  # several are names of one file
        if content.left > MAX_FILE_BYTES or left <= 0:
            unread += len(paths)
            continue
        data = _read(content, max(map(_limit, paths)))
        left -= len(data)
        for path in paths:
            if path in _RELEASES:
                release[path] = readers.os_release(data)
                continue
            told, whole = _told(_reader(path), data, MAX_PACKAGES - len(facts), stop)
            unread += not whole
            facts += ((path, fact) for fact in told)
    system = next((release[path] for path in reversed(_RELEASES) if path in release), {})
    packages = {_package(path, fact, system) for path, fact in facts}
    return Inventory(tuple(sorted(packages)), unread)


def _wanted(root: RootView) -> Iterator[Located]:
    """The files of the merged root that tell of packages, in the order of their layers and paths."""
    for number, index in enumerate(root.indexes):
        for path in index.paths:
            if not path.endswith(_ENDS) and "/status.d/" not in path:
                continue
            if any(pattern.fullmatch(path) for pattern, _, _ in _READERS):
                located = root.lookup(path)
                if located is not None and located.layer == number and index.file(path) is not None:
                    yield located


def _releases(root: RootView) -> Iterable[Located]:
    found = (root.lookup(path) for path in _RELEASES)
    return [one for one in found if one is not None and root.indexes[one.layer].file(one.entry.path) is not None]


def _reader(path: str) -> readers.Reader:
    return next(reader for pattern, reader, _ in _READERS if pattern.fullmatch(path))


def _limit(path: str) -> int:
    """Bytes to be read of a file."""
    return next((limit for pattern, _, limit in _READERS if pattern.fullmatch(path)), _SMALL)


def _read(content: _Readable, limit: int) -> bytes:
    pieces = []
    while limit > 0 and (piece := content.read(limit)):
        pieces.append(piece)
        limit -= len(piece)
    return b"".join(pieces)


def _told(reader: readers.Reader, data: bytes, most: int, stop: threading.Event) -> tuple[list[readers.Fact], bool]:
    """The packages that a file tells of, so many at most, and whether that is all and made sense."""
    facts: list[readers.Fact] = []
    senseless = 0
    for fact in reader(data):
        if stop.is_set():
            raise InterruptedBuildError
        if fact is None:
            senseless += 1
        if senseless > _MOST_SENSELESS or (fact is not None and len(facts) >= most):
            return facts, False
        if fact is not None:
            facts.append(fact)
    return facts, not senseless


def _package(path: str, fact: readers.Fact, system: Mapping[str, str]) -> Package:
    return Package(fact.kind, fact.name, fact.version, fact.architecture, _purl(fact, system), path)


def _purl(fact: readers.Fact, system: Mapping[str, str]) -> str:
    """Source: package-url/purl-spec, types apk, deb, npm, pypi."""
    identity, number = system.get("ID", ""), system.get("VERSION_ID", "")
    name, qualifiers = fact.name, ""
    if fact.kind in ("deb", "apk"):
        name = f"{identity or ('debian' if fact.kind == 'deb' else 'alpine')}/{name.lower()}"
        distribution = "-".join(part for part in (identity, number) if part)
        given = {"arch": fact.architecture, "distro": distribution}
        qualifiers = "&".join(f"{key}={_quoted(value)}" for key, value in given.items() if value)
    elif fact.kind == "pypi":
        name = re.sub(r"[-_.]+", "-", name).lower()
    encoded = "/".join(_quoted(part) for part in name.split("/"))
    return f"pkg:{fact.kind}/{encoded}@{_quoted(fact.version)}" + (f"?{qualifiers}" if qualifiers else "")


def _quoted(text: str) -> str:
    return quote(text, safe="-._~:")
