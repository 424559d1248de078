"""Readers of the files in which package managers write down what they installed.

Each gives a Fact a package, and None for a part that makes no sense. Sources: deb-control(5); apk-tools' database
format, Alpine's wiki, "Apk spec"; Python's core metadata specification; npm's documentation of package.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping

from machinefile.values import dataclass

_LONGEST = 256
_NAMES = {
    "deb": re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*"),
    "apk": re.compile(r"[A-Za-z0-9.][A-Za-z0-9._+-]*"),
    "pypi": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"),
    "npm": re.compile(r"(?:@[A-Za-z0-9._~-]+/)?[A-Za-z0-9._~-]+"),
}
_VERSION = re.compile(r"[!-~]+")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_-]*")
_WORD = re.compile(r"[a-z0-9._-]*")
_MOST_HEADERS = 10_000


@dataclass(frozen=True, slots=True)
class Fact:
    """A package, as its manager has it."""

    kind: str
    """As package URLs have it."""
    name: str
    version: str
    architecture: str = ""


Reader = Callable[[bytes], Iterator[Fact | None]]


def dpkg(data: bytes) -> Iterator[Fact | None]:
    """`status`, or a file of `status.d`: stanzas. What is not installed now is left out."""
    for stanza in _stanzas(data):
        fields = _fields(stanza, ("Package", "Version", "Architecture", "Status"))
        status = fields.get("Status", "install ok installed").split()
        if status[-1:] == ["installed"]:
            yield _fact("deb", fields.get("Package", ""), fields.get("Version", ""), fields.get("Architecture", ""))


def apk(data: bytes) -> Iterator[Fact | None]:
    """`installed`: stanzas of fields with one letter."""
    for stanza in _stanzas(data):
        fields = _fields(stanza, ("P", "V", "A"))
        yield _fact("apk", fields.get("P", ""), fields.get("V", ""), fields.get("A", ""))


def python(data: bytes) -> Iterator[Fact | None]:
    """METADATA or PKG-INFO: the headers before the first empty line."""
    fields = _fields(next(_stanzas(data), []), ("Name", "Version"))
    yield _fact("pypi", fields.get("Name", ""), fields.get("Version", ""))


def npm(data: bytes) -> Iterator[Fact | None]:
    """package.json. One without name and version only marks what kind of modules a folder has."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        yield None
        return
    match value:
        case {"name": str(name), "version": str(version)}:
            yield _fact("npm", name, version)
        case {"name": _, "version": _}:
            yield None
        case {}:
            return
        case _:
            yield None


def os_release(data: bytes) -> Mapping[str, str]:
    """ID and VERSION_ID, those that are plain words. Source: os-release(5)."""
    found = {}
    for line in data.decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        value = value.strip().strip("\"'")
        if equals and name in ("ID", "VERSION_ID") and len(value) <= _LONGEST and _WORD.fullmatch(value):
            found[name] = value
    return found


def _stanzas(data: bytes) -> Iterator[list[str]]:
    """Blocks of lines with empty lines between them."""
    block: list[str] = []
    at = 0
    while at < len(data):
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        line = data[at:end].rstrip(b"\r")
        at = end + 1
        if line:
            if len(block) < _MOST_HEADERS:
                block.append(line[: 2 * _LONGEST].decode("utf-8", "replace"))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _fields(lines: list[str], wanted: tuple[str, ...]) -> dict[str, str]:
    """The fields of these names, the first of each; lines that go on with what stands above are passed over."""
    found: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name in wanted:
            found.setdefault(name, value.strip())
    return found


def _fact(kind: str, name: str, version: str, architecture: str = "") -> Fact | None:
    good = (
        len(name) <= _LONGEST
        and len(version) <= _LONGEST
        and len(architecture) <= _LONGEST
        and _NAMES[kind].fullmatch(name)
        and _VERSION.fullmatch(version)
        and _ARCHITECTURE.fullmatch(architecture)
    )
    return Fact(kind, name, version, architecture) if good else None
