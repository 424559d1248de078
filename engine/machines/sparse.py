"""Files with holes as a stream: what is not zero, and where.

    8 bytes    MBRUNS and a version
    u64        length of the file
    runs:      u64 offset, u64 length, that many bytes; in the order of their offsets
    end:       u64 length of the file, u64 0

Little endian. A run is made of whole pages of 4096 bytes, at most a MiB, that lies between two multiples of a MiB; only
the last may be cut by the file's end. So equal content gives equal bytes, whichever blocks the file system keeps.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from machinefile.errors import UntrustedDataError

_MAGIC = b"MBRUNS\0\1"
_NUMBER = struct.Struct("<Q")
_RUN = struct.Struct("<QQ")
HEAD_BYTES = len(_MAGIC) + _NUMBER.size
_PAGE = 4096
_PIECE = 1 << 20
_ZEROS = bytes(_PAGE)
_ZERO_PIECE = bytes(_PIECE)

Sink = Callable[[bytes], object]
"""Takes bytes in order."""


def write_runs(file: BinaryIO, sink: Sink) -> None:
    """Write a file as a stream. Raises OSError."""
    end = os.fstat(file.fileno()).st_size
    sink(_MAGIC + _NUMBER.pack(end))
    for piece in _pieces(file.fileno(), end):
        data = os.pread(file.fileno(), min(_PIECE, end - piece), piece)
        for start, stop in _filled(data):
            sink(_RUN.pack(piece + start, stop - start) + data[start:stop])
    sink(_RUN.pack(end, 0))


def _pieces(descriptor: int, end: int) -> Iterator[int]:
    """Where the pieces begin that may hold something."""
    at = 0
    while at < end:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = max(at, data - data % _PIECE)
        hole = os.lseek(descriptor, data, os.SEEK_HOLE)
        while at < hole:
            yield at
            at += _PIECE


def _filled(data: bytes) -> Iterator[tuple[int, int]]:
    if data == _ZERO_PIECE:
        return
    start = -1
    for at in range(0, len(data), _PAGE):
        page = data[at : at + _PAGE]
        empty = page == _ZEROS[: len(page)]
        if not empty and start < 0:
            start = at
        elif empty and start >= 0:
            yield start, at
            start = -1
    if start >= 0:
        yield start, len(data)


def digest_of_runs(path: Path) -> str:
    """The digest of a file's stream. Raises OSError."""
    summed = hashlib.sha256()
    with path.open("rb") as file:
        write_runs(file, summed.update)
    return f"sha256:{summed.hexdigest()}"


def length_said(head: bytes) -> int | None:
    """How long the file is whose stream begins so (HEAD_BYTES of it); None for no stream."""
    if len(head) < HEAD_BYTES or not head.startswith(_MAGIC):
        return None
    (length,) = _NUMBER.unpack_from(head, len(_MAGIC))
    return int(length)


class RunReader:
    """Writes a file from its stream, fed in pieces; `finish` says whether it was the stream that was expected.

    What is fed is not trusted: nothing outside the file is written, nothing twice.
    """

    def __init__(self, file: BinaryIO, size: int, where: str, most: int) -> None:
        """`size` in bytes is what the file must have, `most` what its runs may have together; `where` names it in
        messages."""
        self._most = most
        self._file = file
        self._size = size
        self._where = where
        self._pending = bytearray()
        self._begun = False
        self._ended = False
        self._at = 0
        self._left = 0
        self._hash = hashlib.sha256()
        file.truncate(size)

    def feed(self, data: bytes) -> None:
        """Raises UntrustedDataError (`machine-corrupt`), OSError."""
        self._hash.update(data)
        self._pending += data
        if not self._begun:
            if len(self._pending) < len(_MAGIC) + _NUMBER.size:
                return
            (size,) = _NUMBER.unpack_from(self._pending, len(_MAGIC))
            if not self._pending.startswith(_MAGIC) or size != self._size:
                raise self._corrupt("begins wrongly")
            del self._pending[: len(_MAGIC) + _NUMBER.size]
            self._begun = True
        while self._take():
            pass

    def _take(self) -> bool:
        if self._left:
            part = bytes(self._pending[: self._left])
            if not part:
                return False
            self._file.seek(self._at)
            self._file.write(part)
            del self._pending[: len(part)]
            self._at += len(part)
            self._left -= len(part)
            return True
        if len(self._pending) < _RUN.size:
            if self._ended and self._pending:
                raise self._corrupt("goes on after its end")
            return False
        if self._ended:
            raise self._corrupt("goes on after its end")
        offset, length = _RUN.unpack_from(self._pending)
        del self._pending[: _RUN.size]
        if not length and offset == self._size:
            self._ended = True
        elif not 0 < length <= _PIECE or offset < self._at or offset + length > self._size:
            raise self._corrupt("has a run that cannot be")
        else:
            self._at, self._left = offset, length
            self._most -= length
            if self._most < 0:
                raise UntrustedDataError(
                    f"{self._where} is larger than is taken",
                    code="layer-too-large",
                    hint="if you trust it, raise MBUILD_MAX_LAYER_BYTES",
                )
        return True

    def finish(self, digest: str = "") -> None:
        """Raises UntrustedDataError: `machine-corrupt` for a stream that is cut, `digest-mismatch` if a digest is given
        and the stream has another."""
        if not self._ended or self._left or self._pending:
            raise self._corrupt("is cut short")
        if not digest:
            return
        actual = f"sha256:{self._hash.hexdigest()}"
        if actual != digest:
            raise UntrustedDataError(
                f"{self._where} has the digest {actual}, not {digest}",
                code="digest-mismatch",
                hint="the source is damaged or was tampered with: do not use it",
            )

    def _corrupt(self, why: str) -> UntrustedDataError:
        return UntrustedDataError(
            f"{self._where} {why}", code="machine-corrupt", hint="the machine is damaged: push it again"
        )
