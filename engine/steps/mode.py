"""--chmod: file modes as chmod(1) takes them."""

from __future__ import annotations

import re

_OCTAL = re.compile(r"[0-7]{1,5}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


def apply_mode(text: str, mode: int, *, directory: bool) -> int:
    """The mode (0 to 0o7777) that a file of this mode has after `chmod TEXT`; the same mode for an empty text.

    Raises ValueError for what is not a mode. A symbolic mode without `ugoa` means all, whatever the umask.
    Source: chmod(1); BuildKit takes the same forms.
    """
    if not text:
        return mode
    if _OCTAL.fullmatch(text):
        return int(text, 8) & 0o7777
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError(f"not a file mode: {text!r}")
        who = set("ugo") if not match[1] or "a" in match[1] else set(match[1])
        for operator, letters in _ACTION.findall(match[2]):
            mode = _change(mode, who, operator, letters, directory)
    return mode


def _change(mode: int, who: set[str], operator: str, letters: str, directory: bool) -> int:
    bits = special = cleared = 0
    for name in who:
        wanted = _wanted(letters, mode, directory)
        bits |= wanted << _SHIFT[name]
        cleared |= 7 << _SHIFT[name]
    if "s" in letters:
        special |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
    if "t" in letters:
        special |= 0o1000
    if operator == "+":
        return mode | bits | special
    if operator == "-":
        return mode & ~(bits | special)
    # `=` leaves the set-id bits of a directory alone, as GNU chmod does.
    kept_special = 0 if not directory else mode & 0o6000
    cleared |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
    return (mode & ~cleared) | kept_special & cleared | bits | special


def _wanted(letters: str, mode: int, directory: bool) -> int:
    if letters in _SHIFT:
        return mode >> _SHIFT[letters] & 7
    wanted = sum(_BITS.get(letter, 0) for letter in set(letters))
    if "X" in letters and (directory or mode & 0o111):
        wanted |= 1
    return wanted
