"""Looking into compressed files and archives for what really differs in them. Everything is bounded: what is larger
or nested deeper is shown as it is."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator, Sequence

from engine.verify.causes import guess
from engine.verify.difference import Cause, Guess
from machinefile.values import dataclass

MOST_BYTES = 16 << 20
"""Of one content, plain or taken out of another."""
_MOST_MEMBERS = 20_000
_MOST_READ = 256 << 20
"""Bytes of all members of an archive that are compared."""
_DEPTH = 4
_AR = b"!<arch>\n"
_AR_HEADER = 60
_GZIP_TIME = slice(4, 8)
_PYC_HEADER = 16

_TIMELESS = {
    "gzip": "gzip -n writes no time and no name",
    "zip": "zip -X after touch -d @$SOURCE_DATE_EPOCH on the files; for wheels and jars set SOURCE_DATE_EPOCH",
    "tar": "tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 --numeric-owner",
    "ar": "ar D (deterministic) writes no times; ranlib -D",
    "pyc": "set PYTHONDONTWRITEBYTECODE=1, pip install --no-compile, or compileall --invalidation-mode=unchecked-hash",
}
_SORTED = {
    "zip": "name the files to zip in sorted order: find . | LC_ALL=C sort | zip -X -@",
    "tar": "tar --sort=name, or LC_ALL=C sort for a list of names that tar is given",
    "ar": "name the members to ar in sorted order",
}


@dataclass(frozen=True, slots=True)
class Part:
    """The innermost pieces that differ."""

    first: bytes
    second: bytes
    inner: str = ""
    """Where they are in the file; empty for the file itself."""
    guess: Guess | None = None
    """The cause, where the form alone tells it."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    time: int
    facts: tuple[object, ...]
    read: Callable[[], bytes | None]
    """None for what is too large."""


def innermost(first: bytes, second: bytes) -> Part:
    """What differs in two contents, as deep as can be told cheaply."""
    part = Part(first, second)
    for _ in range(_DEPTH):
        deeper = _deeper(part.first, part.second)
        if deeper is None:
            break
        inner = "/".join(filter(None, (part.inner, deeper.inner)))
        part = Part(deeper.first, deeper.second, inner, deeper.guess)
        if part.guess is not None:
            break
    return part


def _deeper(first: bytes, second: bytes) -> Part | None:
    if first.startswith(b"\x1f\x8b") and second.startswith(b"\x1f\x8b"):
        return _gzip(first, second)
    if _is_pyc(first) and _is_pyc(second):
        return _pyc(first, second)
    for form, members in (("zip", _zip_members), ("tar", _tar_members), ("ar", _ar_members)):
        found = members(first), members(second)
        if found[0] is not None and found[1] is not None:
            return _archive(form, first, second, found[0], found[1])
    return None


def _gzip(first: bytes, second: bytes) -> Part | None:
    plain = _inflated(first), _inflated(second)
    if plain[0] is None or plain[1] is None:
        return None
    if plain[0] != plain[1]:
        return Part(plain[0], plain[1], "gunzip")
    if first[_GZIP_TIME] != second[_GZIP_TIME]:
        why = "the header of gzip holds the time; the content is the same"
        return Part(first, second, "gzip header", guess(Cause.TIMESTAMP, why, _TIMELESS["gzip"]))
    return None


def _inflated(data: bytes) -> bytes | None:
    """The first member's content; None for what is damaged or too large."""
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(data, MOST_BYTES)
    except zlib.error:
        return None
    return plain if stream.eof else None


def _is_pyc(data: bytes) -> bool:
    return len(data) > _PYC_HEADER and data[2:4] == b"\r\n" and data[4:8] in (b"\0\0\0\0", b"\1\0\0\0", b"\3\0\0\0")


def _pyc(first: bytes, second: bytes) -> Part | None:
    """Bytecode begins with magic number, flags, and the time and size of the source, or its hash (PEP 552)."""
    if first[:4] == second[:4] and first[4:8] == second[4:8] == b"\0\0\0\0" and first[8:12] != second[8:12]:
        why = "Python's bytecode holds the time of its source"
        return Part(first, second, "pyc header", guess(Cause.TIMESTAMP, why, _TIMELESS["pyc"]))
    return None


def _archive(form: str, first: bytes, second: bytes, ours: Sequence[_Member], theirs: Sequence[_Member]) -> Part | None:
    by_name = {member.name: member for member in ours}, {member.name: member for member in theirs}
    names = [member.name for member in ours], [member.name for member in theirs]
    left = _MOST_READ
    for name in names[0]:
        other = by_name[1].get(name)
        if other is None or left <= 0:
            continue
        content = by_name[0][name].read(), other.read()
        left -= sum(MOST_BYTES if side is None else len(side) for side in content)
        if content[0] is not None and content[1] is not None and content[0] != content[1]:
            return Part(content[0], content[1], name)
    if set(names[0]) != set(names[1]):
        return Part(_lines(names[0]), _lines(names[1]), "members")
    if names[0] != names[1]:
        why = f"the same members of the {form} archive in another order"
        return Part(_lines(names[0]), _lines(names[1]), "members", guess(Cause.ORDERING, why, _SORTED[form]))
    for name in names[0]:
        one, other = by_name[0][name], by_name[1][name]
        if one.time != other.time:
            why = f"the {form} archive holds the times of its members"
            times = _lines([f"{name} {one.time}"]), _lines([f"{name} {other.time}"])
            return Part(times[0], times[1], name, guess(Cause.TIMESTAMP, why, _TIMELESS[form]))
        if one.facts != other.facts:
            return Part(_lines([f"{name} {one.facts}"]), _lines([f"{name} {other.facts}"]), name)
    return None


def _lines(texts: Sequence[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode("utf-8", "replace")


def _zip_members(data: bytes) -> list[_Member] | None:
    if not data.startswith(b"PK"):
        return None
    import struct
    import zipfile

    def read(name: zipfile.ZipInfo) -> bytes | None:
        if name.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return None  # zipfile expands a piece of any other whole, however large it becomes
        try:
            with archive.open(name) as member:
                content = member.read(MOST_BYTES + 1)
        except (zipfile.BadZipFile, struct.error, RuntimeError, EOFError, OSError, zlib.error, ValueError):
            return None
        return content if len(content) <= MOST_BYTES else None

    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        listed = archive.infolist()[:_MOST_MEMBERS]
    except (zipfile.BadZipFile, struct.error, ValueError, OSError, NotImplementedError):
        return None
    return [
        _Member(
            one.filename,
            int("".join(f"{number:02d}" for number in one.date_time)),
            (one.external_attr, one.compress_type, one.extra.hex()),
            lambda one=one: read(one),  # type: ignore[misc]
        )
        for one in listed
    ]


def _tar_members(data: bytes) -> list[_Member] | None:
    if data[257:262] != b"ustar":
        return None
    import tarfile

    def read(member: tarfile.TarInfo) -> bytes | None:
        if not member.isreg():
            return b""
        start = member.offset_data
        return data[start : start + member.size] if not member.issparse() else None

    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for number, one in enumerate(archive):
                if number == _MOST_MEMBERS:
                    break
                facts = (one.type, one.mode, one.uid, one.gid, one.uname, one.gname, one.linkname)
                read_one: Callable[[], bytes | None] = lambda one=one: read(one)  # type: ignore[misc]  # noqa: E731
                found.append(_Member(one.name, int(one.mtime), facts, read_one))
    except (tarfile.TarError, ValueError, OverflowError, OSError, EOFError, RecursionError):
        return None
    return found


def _ar_members(data: bytes) -> list[_Member] | None:
    if not data.startswith(_AR):
        return None
    try:
        return list(_ar(data))
    except ValueError:
        return None


def _ar(data: bytes) -> Iterator[_Member]:
    """Source: ar(5). A header has name 16, time 12, uid 6, gid 6, mode 8, size 10 bytes, padded with spaces."""
    at = len(_AR)
    for _ in range(_MOST_MEMBERS):
        header = data[at : at + _AR_HEADER]
        if len(header) < _AR_HEADER:
            return
        name, time, facts, size = header[:16], header[16:28], header[28:48], int(header[48:58])
        if size < 0:
            raise ValueError("a size below zero")
        content = data[at + _AR_HEADER : at + _AR_HEADER + size]
        read: Callable[[], bytes | None] = lambda content=content: content  # type: ignore[misc]  # noqa: E731
        yield _Member(name.decode("latin-1").strip(), int(time.strip() or b"0"), (facts,), read)
        at += _AR_HEADER + size + size % 2
