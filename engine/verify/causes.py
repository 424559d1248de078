"""Guesses at why two contents differ, from the contents and the path alone. Pure."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence

from engine.verify.difference import Cause, Guess
from engine.verify.shown import first_difference, text_of

MENDS = {
    Cause.TIMESTAMP: "write no time into the file, take it from SOURCE_DATE_EPOCH, or give the RUN --clock=frozen",
    Cause.BUILD_PATH: "build in a folder of a fixed name, or map it away (-ffile-prefix-map=$PWD=.)",
    Cause.RANDOM: "make it from a fixed seed or a hash of the content, or make it when the container starts",
    Cause.ORDERING: "sort what is listed before it is written (LC_ALL=C sort, tar --sort=name, ls instead of find)",
    Cause.PID: "do not write process ids or logs into the image",
    Cause.NETWORK: "pin the version or the checksum of what is fetched, and remove indexes in the same RUN",
    Cause.HOSTNAME: "do not write the host's name into the image",
}

_APT = "rm -rf /var/lib/apt/lists/* at the end of the same RUN; pin the packages' versions"
_LOGS = "rm -rf /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/apt /var/cache/ldconfig in the RUN"

_PATHS = (
    (
        r"var/lib/apt/lists/|var/lib/(yum|dnf)/|var/cache/apk/|lib/apk/db/.*\.tar",
        Cause.NETWORK,
        "a package index",
        _APT,
    ),
    (
        r"var/lib/dpkg/status(-old)?$|lib/apk/db/installed$",
        Cause.NETWORK,
        "the list of installed packages",
        "pin the packages' versions, or take them from a mirror of one day (snapshot.debian.org)",
    ),
    (r"var/cache/apt/|var/cache/debconf/|var/cache/ldconfig/", Cause.TIMESTAMP, "a cache with times in it", _LOGS),
    (r"var/log/", Cause.TIMESTAMP, "a log", _LOGS),
    (
        r"etc/machine-id$|var/lib/dbus/machine-id$",
        Cause.RANDOM,
        "a machine's id",
        "leave the file empty: it is made when the machine starts",
    ),
    (
        r"etc/ssh/ssh_host_",
        Cause.RANDOM,
        "a host key",
        "rm /etc/ssh/ssh_host_* in the same RUN: every container would have the same key",
    ),
)

_DAYS = "Mon|Tue|Wed|Thu|Fri|Sat|Sun"
_MONTHS = "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec"
_CLOCK = r"\d{1,2}:\d\d(?::\d\d)?(?:\.\d+)?"
_ZONE = r"(?: ?(?:[AP]M\b|Z\b|UTC|GMT|CES?T|[A-Z]{1,3}[SD]T\b|[+-]\d\d:?\d\d)){0,2}"
_TIME = "|".join(
    (
        rf"(?:(?:{_DAYS})[a-z]*,? +)?(?:{_MONTHS})[a-z]* +\d{{1,2}},?(?: +{_CLOCK}{_ZONE})?(?: +\d{{4}})?",
        rf"(?:(?:{_DAYS})[a-z]*,? +)?\d{{1,2}}[ -](?:{_MONTHS})[a-z]*[ -]\d{{4}}(?: +{_CLOCK}{_ZONE})?",
        rf"\d{{4}}[-/.]\d\d[-/.]\d\d(?:[T_ -]+\d\d[:.]?\d\d(?:[:.]?\d\d)?(?:\.\d+)?{_ZONE})?",
        rf"{_CLOCK}{_ZONE}",
        r"\b1\d{9}(?:\.\d+|\d{3}|\d{6}|\d{9})?\b",
        r"\b20\d{6}(?:T?\d{4,6}Z?)?\b",
    )
)

_UUID = r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"

_PATTERNS = (
    (
        Cause.HOSTNAME,
        re.compile(r"(?i)\bhost(?:[ _-]?name)?['\"]?[ \t]*[=:][ \t]*['\"]?[\w.-]+|\b(?:root|build(?:er|d)?)@[\w.-]+"),
        "a host's name",
    ),
    (
        Cause.PID,
        re.compile(r"(?i)\bp(?:rocess[ _]?)?id['\"]?[ \t]*[=: ][ \t]*\d{1,7}\b|(?<=\w)\[\d{1,7}\]"),
        "a process id",
    ),
    (
        Cause.RANDOM,
        re.compile(r"(?i)\bport['\"]?[ \t]*[=: ][ \t]*['\"]?\d{2,5}\b|\b(?:localhost|127\.0\.0\.1):\d{2,5}\b"),
        "the number of a port",
    ),
    (Cause.RANDOM, re.compile(_UUID), "a UUID"),
    (Cause.TIMESTAMP, re.compile(_TIME), "a date or a time"),
    (
        Cause.BUILD_PATH,
        re.compile(r"/(?:tmp|var/tmp|build|builds|home|root|work|workspace|usr/src|src)/[^\s:;'\",)\]>\0]+"),
        "the path of a folder that something was built in",
    ),
    (Cause.RANDOM, re.compile(r"\b[0-9a-fA-F]{8,}\b|(?:\b[0-9a-fA-F]{2}[ :]){7,}[0-9a-fA-F]{2}\b"), "a hex number"),
    (Cause.RANDOM, re.compile(r"(?<![\w/])[A-Za-z0-9+_-]{16,}={0,2}"), "what looks like a random word"),
)

_COMPRESSED = (b"\x1f\x8b", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\x03\x04")
_MOST_PAIRS = 200
_MOST_LINE = 2000
_EARLIEST, _LATEST = 1_000_000_000, 4_000_000_000
_NEAR = 400 * 86400
"""Seconds between two numbers that may both be now, with the clock of one build moved."""
_WINDOW = 48
_SPANS = 16
_NAMES = re.compile(rf"{_UUID}|\btmp[.\w-]{{6,}}|[0-9a-f]{{8,}}|(?<=\.)[A-Za-z0-9]{{6,}}$")


def guess_content(path: str, first: bytes, second: bytes) -> Guess | None:
    """Why contents differ. `path` is that of the file in the layer."""
    if first == second:
        return None
    by_path = guess_path(path)
    if by_path is not None:
        return by_path
    texts = text_of(first), text_of(second)
    if texts[0] is not None and texts[1] is not None:
        return _guess_text(texts[0], texts[1])
    return _guess_binary(first, second)


def guess_path(path: str) -> Guess | None:
    """What a path says of what is in it."""
    for pattern, cause, why, mend in _PATHS:
        if re.match(pattern, path):
            return Guess(cause, f"/{path} is {why}", mend)
    return None


def guess_presence(path: str) -> Guess | None:
    """Why a file is in one of two builds only."""
    by_path = guess_path(path)
    if by_path is not None:
        return by_path
    if _NAMES.search(path):
        return Guess(Cause.RANDOM, "its name looks made up", "give it a fixed name, or remove it in the same RUN")
    return None


def guess(cause: Cause, why: str, mend: str = "") -> Guess:
    """A guess with the usual mend."""
    return Guess(cause, why, mend or MENDS[cause])


def _guess_text(first: str, second: str) -> Guess | None:
    lines = first.splitlines(), second.splitlines()
    if lines[0] != lines[1] and Counter(lines[0]) == Counter(lines[1]):
        return guess(Cause.ORDERING, "the same lines in another order")
    found: Counter[Cause] = Counter()
    why: dict[Cause, str] = {}
    for one, other in _pairs(*lines):
        cause = _cause_of_line(one[:_MOST_LINE], other[:_MOST_LINE])
        if cause is not None:
            found[cause[0]] += 1
            why.setdefault(*cause)
    if not found:
        return None
    cause_found = found.most_common(1)[0][0]
    return guess(cause_found, why[cause_found])


def _pairs(first: Sequence[str], second: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Lines that stand for one another and differ."""
    number = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            yield one, other
            number += 1
            if number == _MOST_PAIRS:
                return


def _cause_of_line(first: str, second: str) -> tuple[Cause, str] | None:
    """The cause whose pattern, taken out of both, leaves the same; else the first whose matches differ."""
    candidates = []
    for cause, pattern, why in _PATTERNS:
        found = pattern.findall(first), pattern.findall(second)
        if found[0] == found[1] or not (found[0] and found[1]):
            continue
        if pattern.sub("\0", first) == pattern.sub("\0", second):
            return cause, f"what differs is {why}"
        candidates.append((cause, f"what differs has {why} in it"))
    words = Counter(re.split(r"[\s,;]+", first.strip())), Counter(re.split(r"[\s,;]+", second.strip()))
    if words[0] == words[1] and len(words[0]) > 1:
        return Cause.ORDERING, "the same words in another order"
    return candidates[0] if candidates else None


def _guess_binary(first: bytes, second: bytes) -> Guess | None:
    spans = list(_spans(first, second))
    for start, end in spans:
        cause = _cause_of_line(_strings(first, start, end), _strings(second, start, end))
        if cause is not None:
            return guess(*cause)
    for start, _ in spans:
        if _is_time(first, second, start):
            return guess(Cause.TIMESTAMP, f"the number at {start} is the time of the build")
    if len(first) == len(second) and Counter(first) == Counter(second):
        return guess(Cause.ORDERING, "the same bytes in another order")
    if not first.startswith(_COMPRESSED) and any(_is_noise(first[a:b], second[a:b]) for a, b in spans):
        return guess(Cause.RANDOM, "bytes without any pattern")
    return None


def _spans(first: bytes, second: bytes) -> Iterator[tuple[int, int]]:
    """Stretches that differ, with gaps of up to eight equal bytes in them, as far as the lengths go."""
    most = min(len(first), len(second))
    at = 0
    for _ in range(_SPANS):
        at += first_difference(first[at:], second[at:])
        if at >= most:
            return
        end = at + 1
        equal = 0
        while end + equal < most and equal < 8 and end - at < 4096:
            if first[end + equal] == second[end + equal]:
                equal += 1
            else:
                end, equal = end + equal + 1, 0
        yield at, end
        at = end


def _strings(data: bytes, start: int, end: int) -> str:
    """The printable run around a stretch."""
    begin = start
    while begin > max(0, start - _WINDOW) and 0x20 <= data[begin - 1] < 0x7F:
        begin -= 1
    stop = end
    while stop < min(len(data), end + _WINDOW) and 0x20 <= data[stop] < 0x7F:
        stop += 1
    return data[begin:stop].decode("latin-1")


def _is_time(first: bytes, second: bytes, at: int) -> bool:
    """Whether a 32-bit number over that offset is about the same time in both."""
    for offset in range(max(0, at - 3), at + 1):
        for form in ("<I", ">I"):
            try:
                one, other = struct.unpack_from(form, first, offset)[0], struct.unpack_from(form, second, offset)[0]
            except struct.error:
                continue
            if _EARLIEST < one < _LATEST and _EARLIEST < other < _LATEST and 0 < abs(one - other) < _NEAR:
                return True
    return False


def _is_noise(first: bytes, second: bytes) -> bool:
    if len(first) < 8 or len(first) != len(second):
        return False
    differ = sum(one != other for one, other in zip(first, second, strict=True))
    return differ >= 0.8 * len(first) and min(len(set(first)), len(set(second))) >= min(64, 0.7 * len(first))
