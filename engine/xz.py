"""xz streams, read with bounded memory: the standard library's own reader lets a file ask for 4 GiB."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    import lzma

MEMORY = 160 << 20
"""Bytes; what `xz -9` wrote needs 65 MiB, the largest dictionary that one meets, 128 MiB, a little more than that."""
_CHUNK = 64 << 10


class XzMemoryError(OSError):
    """The stream is sound as far as it was read, and needs more memory than it gets."""


class XzFile(io.RawIOBase):
    """The plain bytes of an xz file: any number of streams, with padding of zeros between them.

    Reading raises OSError for a stream that is damaged or cut short, XzMemoryError for one that needs more than
    `MEMORY`. Closing it closes the file below too.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = _begun()
        self._ended = False

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: object, /) -> int:
        """As of a binary file."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        data = self._read(len(view)) if len(view) else b""
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close both."""
        super().close()
        self._file.close()

    def _read(self, size: int) -> bytes:
        import lzma

        while not self._ended:
            given = b""
            if self._decompressor.eof:
                given = self._next()
                if not given:
                    break
            elif self._decompressor.needs_input:
                given = self._file.read(_CHUNK)
                if not given:
                    raise OSError("the xz stream ends too early")
            try:
                data = self._decompressor.decompress(given, size)
            except lzma.LZMAError as error:
                if "Memory usage limit" in str(error):  # the module has no other sign of it
                    needs = f"it needs more than {MEMORY >> 20} MiB of memory to be decompressed"
                    raise XzMemoryError(needs) from error
                raise OSError(f"the xz stream is damaged ({error})") from error
            if data:
                return data
        return b""

    def _next(self) -> bytes:
        """The beginning of the stream after this one, past the zeros between them; empty at the end of the file."""
        rest = self._decompressor.unused_data
        while not (found := rest.lstrip(b"\0")):
            rest = self._file.read(_CHUNK)
            if not rest:
                self._ended = True
                return b""
        self._decompressor = _begun()
        return found


def _begun() -> lzma.LZMADecompressor:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY)
