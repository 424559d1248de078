"""One tar header, with the PAX header it needs, by the rules for canonical layers (engine/layers/tarwrite.py)."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote_from_bytes

from engine.layers.entry import Entry, EntryType
from engine.layers.names import WHITEOUT_PREFIX, encode, join, parent_of
from engine.layers.tarheader import BLOCK, LIBARCHIVE, SCHILY

_FILE = EntryType.FILE
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_KINDS = {
    EntryType.FILE: b"0",
    EntryType.HARDLINK: b"1",
    EntryType.SYMLINK: b"2",
    EntryType.CHARACTER: b"3",
    EntryType.BLOCK: b"4",
    EntryType.DIRECTORY: b"5",
    EntryType.FIFO: b"6",
    EntryType.WHITEOUT: b"0",
}
_PAX_NAME = b"././@PaxHeader"
_EIGHT = 0o7777777
_TWELVE = 0o77777777777


def header_blocks(entry: Entry, name: bytes | None = None) -> bytes:
    """The header of an entry, with the PAX header it needs. `name` in place of the entry's path."""
    records: dict[bytes, bytes] = {}
    name = _name(entry) if name is None else name
    plain = entry.type is _FILE and not entry.xattrs and not entry.link and entry.device == (0, 0)
    if plain and len(name) <= 100 and entry.size <= _TWELVE:
        frame = _frame(entry.mode, entry.uid, entry.gid, entry.mtime)
        if frame is not None:
            return _framed(name, b"%011o\0" % entry.size, frame)
    link = encode(entry.link)
    if len(name) > 100:
        records[b"path"] = name
    if len(link) > 100:
        records[b"linkpath"] = link
    whole = int(entry.mtime // 1)
    if entry.mtime != whole or not 0 <= whole <= _TWELVE:
        records[b"mtime"] = _time(entry.mtime)
    for key, value, most in ((b"uid", entry.uid, _EIGHT), (b"gid", entry.gid, _EIGHT), (b"size", entry.size, _TWELVE)):
        if value > most:
            records[key] = str(value).encode()
    for attribute, content in entry.xattrs:
        if "=" in attribute:  # a PAX key ends at the first one
            key = (LIBARCHIVE + quote_from_bytes(encode(attribute), safe="")).encode()
            records[key] = base64.b64encode(content).rstrip(b"=")
        else:
            records[encode(SCHILY + attribute)] = content
    main = _block(
        name[:100],
        _KINDS[entry.type],
        entry.mode,
        (entry.uid, entry.gid, entry.size),
        min(max(whole, 0), _TWELVE),
        link[:100],
        entry.device,
    )
    return pax_blocks(records) + main if records else main


_Frame = tuple[bytes, bytes, bytes, int]


@lru_cache(256)
def _frame(mode: int, uid: int, gid: int, mtime: float) -> _Frame | None:
    """What the headers of plain files that differ in name and size alone have in common: the parts before the size,
    after it, after the checksum; and its share of the checksum. None where such a file needs a PAX header."""
    if uid > _EIGHT or gid > _EIGHT or mtime != int(mtime) or not 0 <= mtime <= _TWELVE:
        return None
    block = _block(b"", b"0", mode, (uid, gid, 0), int(mtime))
    before, after, rest = block[100:124], block[136:148], block[156:]
    return before, after, rest, sum(before) + sum(after) + sum(rest) + 8 * ord(" ")


def _framed(name: bytes, size: bytes, frame: _Frame) -> bytes:
    before, after, rest, share = frame
    check = b"%06o\0 " % (sum(name) + sum(size) + share)
    return b"".join((name.ljust(100, b"\0"), before, size, after, check, rest))


def _name(entry: Entry) -> bytes:
    if entry.type is _FILE:
        return encode(entry.path)
    if entry.type is EntryType.WHITEOUT:
        return encode(join(parent_of(entry.path), WHITEOUT_PREFIX + entry.path.rpartition("/")[2]))
    if entry.type is EntryType.DIRECTORY:
        return encode(entry.path or ".") + b"/"
    return encode(entry.path)


def _time(mtime: float) -> bytes:
    if mtime == int(mtime):
        return str(int(mtime)).encode()
    return f"{mtime:.9f}".rstrip("0").rstrip(".").encode()


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    numbers: tuple[int, int, int],
    mtime: int,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    uid, gid, size = numbers
    block = _HEADER.pack(
        name,
        b"%07o" % mode,
        b"%07o" % (uid if uid <= _EIGHT else 0),
        b"%07o" % (gid if gid <= _EIGHT else 0),
        b"%011o" % (size if size <= _TWELVE else 0),
        b"%011o" % mtime,
        b"        ",
        kind,
        link,
        b"ustar\x0000",
        b"",
        b"",
        b"%07o" % device[0],
        b"%07o" % device[1],
        b"",
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pax_blocks(records: Mapping[bytes, bytes]) -> bytes:
    """A PAX header with these records, to stand before the header that they are about."""
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    return _block(_PAX_NAME, b"x", 0o644, (0, 0, len(data)), 0) + data + bytes(-len(data) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    body = len(key) + len(value) + 3  # a blank, `=` and the line's end
    length = body + len(str(body))
    if len(str(length)) > len(str(body)):
        length = body + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)
