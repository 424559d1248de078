"""The change stream's layout: what the guest's agent (engine/vm/agent/changes.c) writes onto a raw disk.

Little endian: 8 bytes of magic, then records. A record is a header of 64 bytes, the path, the link, the extended
attributes (u16 length of the name, u32 length of the value, name, value), zeros up to a multiple of 512 bytes
from the stream's start, the content, zeros again. Depth first, a directory before what is in it, the root (path
"") first. The last record has type 255; its size is the number of records before it.

The content of a large file stays where it is, on the step's scratch disk: its record has the type 9, no content, and
behind the attributes u32 count and so many extents: u64 offset on that disk, or all ones for zeros; u64 length.
"""

from __future__ import annotations

import struct
from enum import IntEnum

STREAM_MAGIC = b"MBCHG\x00\x00\x01"
RECORD_MAGIC = 0x4543424D
ALIGNMENT = 512
HEADER = struct.Struct("<IBxHIIIIIQqIII8x")
"""Magic, type, number of attributes, mode, uid, gid, major, minor, size, seconds and nanoseconds of the time of
change, lengths of path and link."""
XATTR = struct.Struct("<HI")
EXTENT_COUNT = struct.Struct("<I")
EXTENT = struct.Struct("<QQ")
ZEROS = (1 << 64) - 1
"""In place of an extent's offset: it is a hole."""
MAX_EXTENTS = 1024
"""Of one file; one in more pieces is copied into the stream."""


class RecordType(IntEnum):
    """What a record speaks of."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    CHARACTER = 4
    BLOCK = 5
    FIFO = 6
    SOCKET = 7
    HARDLINK = 8
    EXTENTS = 9
    END = 255


def padding(position: int) -> int:
    """Zeros up to where the next part begins."""
    return -position % ALIGNMENT
