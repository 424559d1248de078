"""One tar header block, and PAX records, read strictly.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar
Format". Where readers differ we read as Go's archive/tar, which Docker, containerd and BuildKit use.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from engine.layers.limits import LayerLimits
from engine.layers.names import decode
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
SCHILY = "SCHILY.xattr."
LIBARCHIVE = "LIBARCHIVE.xattr."
_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]*)?")
_MAX_NUMBER = (1 << 63) - 1
MAX_ID = (1 << 32) - 2
"""The highest user or group id; the one above means "none" to the kernel."""


def refuse(code: str, name: str, why: str, hint: str = "") -> NoReturn:
    """Raise UntrustedDataError for an entry."""
    shown = name if len(name) <= 200 else name[:200] + "..."
    raise UntrustedDataError(
        f"the layer's entry {shown!r}: {why}", code=code, hint=hint or "the image is damaged or hostile: do not use it"
    )


@dataclass(slots=True)
class Header:
    """The fields of a header block, before PAX and GNU extensions."""

    name: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: float
    link: str
    device: tuple[int, int]


def parse_header(block: bytes, where: int) -> Header:
    """Read a header block (512 bytes, at offset `where`).

    Raises UntrustedDataError: `layer-header` for a wrong checksum or a field that is no number.
    """
    name = decode(block[:100].split(b"\0", 1)[0])
    _check_sum(block, where)
    magic = block[257:263]
    if magic == b"ustar\0":
        width = 131 if block[508:512] == b"tar\0" else 155  # Schily's star keeps times behind a shorter prefix
        prefix = block[345 : 345 + width].split(b"\0", 1)[0]
        if prefix:
            name = f"{decode(prefix)}/{name}"
    kind = block[156:157]
    if kind == b"\0":
        kind = b"5" if name.endswith("/") else b"0"
    device = (0, 0)
    if kind in b"34" and magic in (b"ustar\0", b"ustar "):
        device = (_number(block[329:337], name), _number(block[337:345], name))
    return Header(
        name,
        kind,
        _number(block[100:108], name) & 0o7777,
        _number(block[108:116], name),
        _number(block[116:124], name),
        _number(block[124:136], name),
        _number(block[136:148], name, negative=True),
        decode(block[157:257].split(b"\0", 1)[0]),
        device,
    )


def _check_sum(block: bytes, where: int) -> None:
    stored = block[148:156].strip(b" \0")
    if stored.isdigit() and len(stored) < 8:
        field = block[148:156]
        if sum(block) - sum(field) + 256 == _octal(stored):
            return
        # Some old tars summed signed bytes.
        signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])
        if signed == _octal(stored):
            return
    raise UntrustedDataError(
        f"the layer is not a tar archive: there is no valid header at byte {where}",
        code="layer-header",
        hint="the image is damaged: pull it again, or build it again",
    )


def _octal(digits: bytes) -> int:
    try:
        return int(digits, 8)
    except ValueError:
        return -1


def _number(field: bytes, name: str, *, negative: bool = False) -> int:
    if field[0] & 0x80:  # GNU's base-256: two's complement behind a flag bit
        value = int.from_bytes(field, "big") & ((1 << (len(field) * 8 - 1)) - 1)
        if field[0] & 0x40:
            value -= 1 << (len(field) * 8 - 1)
        if abs(value) <= _MAX_NUMBER and (negative or value >= 0):
            return value
    else:
        digits = field.strip(b" \0")
        if not digits:
            return 0
        if digits.isdigit() and (value := _octal(digits)) >= 0:
            return value
    refuse("layer-header", name, f"its header has {field!r} where a number belongs")


def parse_pax(data: bytes, limits: LayerLimits) -> dict[str, bytes]:
    """Read the records of a PAX header: `LENGTH KEY=VALUE\\n`, the later of two with one key wins.

    Raises UntrustedDataError (`layer-pax`).
    """
    records: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        length = data[at:space] if space > 0 else b""
        if not length.isdigit() or length.startswith(b"0"):
            refuse("layer-pax", "", "a PAX record has no length")
        end = at + int(length)
        equals = data.find(b"=", space + 1, end)
        if end > len(data) or equals < 0 or data[end - 1 : end] != b"\n" or end <= equals:
            refuse("layer-pax", "", "a PAX record is cut short or has no key")
        key = decode(data[space + 1 : equals])
        value = data[equals + 1 : end - 1]
        if not key or "\0" in key:
            refuse("layer-pax", "", "a PAX record has an impossible key")
        if key.startswith(SCHILY) and len(value) > limits.max_xattr:
            refuse(
                "layer-pax", "", f"the attribute {key.removeprefix(SCHILY)!r} is larger than {limits.max_xattr} bytes"
            )
        records[key] = value
        at = end
    return records


def apply_pax(header: Header, records: Mapping[str, bytes]) -> None:
    """Let PAX records override the header's fields. An empty value overrides nothing, as in Go.

    Raises UntrustedDataError: `layer-pax`, `layer-sparse`.
    """
    for key, value in records.items():
        if not value:
            continue
        if key == "path":
            header.name = _pax_path(value, header.name)
        elif key == "linkpath":
            header.link = _pax_path(value, header.name)
        elif key == "size":
            header.size = _pax_integer(key, value, header.name)
        elif key == "uid":
            header.uid = _pax_integer(key, value, header.name)
        elif key == "gid":
            header.gid = _pax_integer(key, value, header.name)
        elif key == "mtime":
            header.mtime = _pax_time(value, header.name)
        elif key.startswith("GNU.sparse."):
            refuse_sparse(header.name)


def pax_size(records: Mapping[str, bytes], name: str) -> int | None:
    """How large the content is by PAX records; None where they do not say. Raises UntrustedDataError (`layer-pax`)."""
    value = records.get("size", b"")
    return _pax_integer("size", value, name) if value else None


def pax_time(records: Mapping[str, bytes], name: str) -> float | None:
    """The entry's time by PAX records; None where they do not say. Raises UntrustedDataError (`layer-pax`)."""
    value = records.get("mtime", b"")
    return _pax_time(value, name) if value else None


def refuse_sparse(name: str) -> NoReturn:
    """Raise UntrustedDataError (`layer-sparse`)."""
    refuse(
        "layer-sparse",
        name,
        "it is a GNU sparse file, which image layers should not hold (OCI image spec, layer.md)",
        "rebuild the image without tar --sparse",
    )


def _pax_path(value: bytes, name: str) -> str:
    if b"\0" in value:
        refuse("layer-path", name, "its PAX path has a NUL byte in it")
    return decode(value)


def _pax_integer(key: str, value: bytes, name: str) -> int:
    if value.isdigit() and len(value) <= 19 and (number := int(value)) <= _MAX_NUMBER:
        return number
    refuse("layer-pax", name, f"its PAX header says {key}={value[:40]!r}")


def _pax_time(value: bytes, name: str) -> float:
    text = value.decode("ascii", "replace")
    if _DECIMAL.fullmatch(text):
        number = float(text)
        if math.isfinite(number) and abs(number) <= _MAX_NUMBER:
            return int(number) if number.is_integer() else number
    refuse("layer-pax", name, f"its PAX header says mtime={value[:40]!r}")


def xattrs_of(records: Mapping[str, bytes], name: str, limits: LayerLimits) -> tuple[tuple[str, bytes], ...]:
    """The extended attributes among PAX records, sorted by name.

    `trusted.` is left out, as containerd leaves it out: it would let a layer speak to overlayfs.
    Raises UntrustedDataError (`layer-pax`).
    """
    found: dict[str, bytes] = {}
    for key, value in records.items():
        if key.startswith(LIBARCHIVE):
            found.setdefault(*_libarchive(key, value, name))
        elif key.startswith(SCHILY):
            found[key.removeprefix(SCHILY)] = value
    for attribute, value in found.items():
        if len(value) > limits.max_xattr or not 0 < len(attribute.encode("utf-8", "surrogateescape")) <= 255:
            refuse("layer-pax", name, f"its attribute {attribute[:300]!r} is larger than Linux allows")
    return tuple(sorted((key, value) for key, value in found.items() if not key.startswith("trusted.")))


def _libarchive(key: str, value: bytes, name: str) -> tuple[str, bytes]:
    attribute = decode(unquote_to_bytes(key.removeprefix(LIBARCHIVE).encode("utf-8", "surrogateescape")))
    if "\0" in attribute:
        refuse("layer-pax", name, "the name of one of its attributes has a NUL byte in it")
    try:
        # libarchive leaves the padding out
        return attribute, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        refuse("layer-pax", name, f"its attribute {attribute!r} is not base64")
