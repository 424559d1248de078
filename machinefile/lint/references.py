"""Whether a text can name an image."""

from __future__ import annotations

import re

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_TAG = r"(?::[\w][\w.-]{0,127})?"
_DIGEST = r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*{_TAG}{_DIGEST}", re.ASCII)
_FULL = re.compile(rf"(?P<host>{_HOST})/{_COMPONENT}(?:/{_COMPONENT})*{_TAG}{_DIGEST}", re.ASCII)
_HOST_MARKS = re.compile(r"[.:\[A-Z]")
_MAX = 4096


def may_name_image(text: str) -> bool:
    """Whether the text has the form of an image's name. Source: the distribution project's `reference` grammar."""
    if len(text) > _MAX or re.fullmatch(r"[a-f0-9]{64}", text):
        return False
    if _PATH.fullmatch(text):
        return True
    matched = _FULL.fullmatch(text)
    return matched is not None and bool(_HOST_MARKS.search(matched["host"]) or matched["host"] == "localhost")
