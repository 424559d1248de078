"""A tar, plain or compressed, whose files are read by name. Nothing of it is ever unpacked onto the host."""

from __future__ import annotations

import bz2
import gzip
import os
import posixpath
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, cast

from engine.images.files import CHUNK
from machinefile.errors import HostError, TransferError, UntrustedDataError

MAX_ARCHIVE_BYTES = 64 << 30
"""Decompressed."""
MAX_ENTRIES = 100_000
_MAX_LINKS = 16
_MAX_HEADER = 1 << 20
_ZSTD_WINDOW = 1 << 27


class TarFiles:
    """The files of a tar, a context manager; threads may share it. Symbolic and hard links within it are followed."""

    def __init__(self, path: Path) -> None:
        """Raises TransferError (`image-not-found`) and UntrustedDataError (`archive-invalid`)."""
        self._path = path
        self._held = ExitStack()
        try:
            file = self._held.enter_context(_open(path))
            self._file = self._held.enter_context(_plain(file, path))
            self._entries = _index(self._file, path)
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> TarFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def size(self, name: str) -> int | None:
        """As in Files."""
        entry = self._find(name)
        return None if entry is None else entry.size

    def chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """As in Files."""
        entry = self._find(name)
        if entry is None:
            raise invalid(self._path, f"there is no {name}")
        position, end = entry.offset_data, entry.offset_data + min(entry.size, limit)
        while position < end:
            data = os.pread(self._file.fileno(), min(CHUNK, end - position), position)
            if not data:
                raise invalid(self._path, f"{name} is cut short")
            position += len(data)
            yield data

    def _find(self, name: str) -> tarfile.TarInfo | None:
        """Older versions of docker save wrote a layer that two images share as a link to the other's."""
        name = _clean(name)
        for _ in range(_MAX_LINKS):
            entry = self._entries.get(name)
            if entry is None or (entry.isreg() and not entry.issparse()):
                return entry
            if entry.issym():
                name = _clean(posixpath.join(posixpath.dirname(name), entry.linkname))
            elif entry.islnk():
                name = _clean(entry.linkname)
            else:
                return None
        return None


def invalid(path: Path, reason: str) -> UntrustedDataError:
    """The error for an archive that cannot be read."""
    return UntrustedDataError(
        f"the archive {path} cannot be read: {reason}",
        code="archive-invalid",
        hint="make it again, with docker save, podman save or skopeo copy",
    )


def _open(path: Path) -> IO[bytes]:
    try:
        if not path.is_file():  # a pipe could block for ever
            raise FileNotFoundError
        return open(path, "rb")
    except OSError as error:
        raise TransferError(
            f"the archive {path} cannot be opened: {error.strerror or 'there is no such file'}",
            code="image-not-found",
            hint="check the path",
        ) from error


def _plain(file: IO[bytes], path: Path) -> IO[bytes]:
    """The archive itself, or, decompressed, a temporary file without a name: its parts are read in any order."""
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return _decompressed(cast(IO[bytes], gzip.GzipFile(fileobj=file)), path)
    if start.startswith(b"BZh"):
        return _decompressed(cast(IO[bytes], bz2.BZ2File(file)), path)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        return _decompressed(cast(IO[bytes], engine.stream_reader(file, read_across_frames=True)), path)
    if start.startswith(b"\xfd7zXZ"):
        from engine.xz import XzFile

        return _decompressed(cast(IO[bytes], XzFile(cast(BinaryIO, file))), path)
    return file


def _decompressed(source: IO[bytes], path: Path) -> IO[bytes]:
    with ExitStack() as stack:
        plain = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115 - the caller's
        stack.callback(plain.close)
        try:
            for data in _pieces(source, path):
                plain.write(data)
            plain.seek(0)
        except OSError as error:
            raise HostError(
                f"{path} cannot be decompressed into {tempfile.gettempdir()}: {error.strerror or error}",
                code="temporary-failed",
                hint="free some space there, or set TMPDIR to another folder",
            ) from error
        stack.pop_all()
    return plain


def _pieces(source: IO[bytes], path: Path) -> Iterator[bytes]:
    import zstandard

    length = 0
    while True:
        try:
            data = source.read(CHUNK)
        except (EOFError, OSError, zlib.error, zstandard.ZstdError, ValueError) as error:
            raise invalid(path, str(error)) from error
        if not data:
            return
        length += len(data)
        if length > MAX_ARCHIVE_BYTES:
            raise invalid(path, f"it decompresses to more than {MAX_ARCHIVE_BYTES} bytes")
        yield data


class _Guarded:
    """The archive for tarfile, which reads extended headers whole, as long as they say they are."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:  # a negative size would read everything
            raise invalid(self._path, "it has a header of impossible size")
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()


def _index(file: IO[bytes], path: Path) -> dict[str, tarfile.TarInfo]:
    """Every entry by its clean name; of two with one name the later counts, as when a tar is unpacked."""
    entries: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(fileobj=cast(Any, _Guarded(file, path)), mode="r:") as tar:
            offset = -1
            while (entry := tar.next()) is not None:
                if entry.offset <= offset or entry.size < 0:  # tarfile follows a negative size backwards, for ever
                    raise invalid(path, f"{entry.name!r} has an impossible size")
                offset = entry.offset
                cast(Any, tar).members.clear()  # tarfile would keep them all a second time
                entries[_clean(entry.name)] = entry
                if len(entries) > MAX_ENTRIES:
                    raise invalid(path, f"it has more than {MAX_ENTRIES} entries")
    except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError) as error:
        raise invalid(path, str(error) or "it is not a tar") from error
    return entries


def _clean(name: str) -> str:
    """Names are keys here, never paths on the host; `..` cannot climb above the root."""
    return posixpath.normpath("/" + name.lstrip("/")).lstrip("/")
