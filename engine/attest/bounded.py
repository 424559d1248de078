"""Fields of a statement, read with bounds: it may be signed and still say anything."""

from __future__ import annotations

import re

from engine.images.digest import is_digest
from engine.images.jsonvalue import JsonObject
from machinefile.imageconfig import Pairs

_MOST_ENTRIES = 10_000
"""Of any list or object."""
_LONGEST = 1 << 20
"""Characters of any text that has no bound of its own."""
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


def entries_of(children: tuple[JsonObject, ...], where: str) -> tuple[JsonObject, ...]:
    """The children, if they are not too many. Raises UntrustedDataError as all here do."""
    if len(children) > _MOST_ENTRIES:
        raise children[0].wrong("", f"is one of more than {_MOST_ENTRIES} in {where}")
    return children


def text_of(fields: JsonObject, name: str, most: int = _LONGEST) -> str:
    """A text; empty where there is none."""
    text = fields.text(name)
    if len(text) > most:
        raise fields.wrong(name, f"is longer than {most} characters")
    return text


def texts_of(fields: JsonObject, name: str) -> tuple[str, ...]:
    """A list of texts."""
    found = fields.texts(name)
    if len(found) > _MOST_ENTRIES or any(len(text) > _LONGEST for text in found):
        raise fields.wrong(name, "is too long")
    return found


def pairs_of(fields: JsonObject, name: str) -> Pairs:
    """Names and texts."""
    found = fields.pairs(name)
    if len(found) > _MOST_ENTRIES or any(len(key) > _LONGEST or len(value) > _LONGEST for key, value in found):
        raise fields.wrong(name, "is too long")
    return found


def number_of(fields: JsonObject, name: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    value = fields.integer(name)
    if not least <= value <= most:
        raise fields.wrong(name, f"is not from {least} to {most}")
    return value


def digest_of(digest: JsonObject) -> str:
    """The sha256 as OCI writes it."""
    found = f"sha256:{text_of(digest, 'sha256')}"
    if not is_digest(found):
        raise digest.wrong("sha256", "is no digest")
    return found


def checksum_of(digest: JsonObject) -> str:
    """The one checksum, as ADD --checksum takes it."""
    (name,) = digest.fields
    checksum = f"{name}:{text_of(digest, name)}"
    if not _CHECKSUM.fullmatch(checksum):
        raise digest.wrong(name[:80], "is no checksum that mbuild knows")
    return checksum
