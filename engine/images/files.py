"""Files that are read by name: those of a folder, or those in a tar that is never unpacked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from machinefile.errors import UntrustedDataError

CHUNK = 1 << 20


class Files(Protocol):
    """Regular files under relative names with `/` between the parts."""

    def size(self, name: str) -> int | None:
        """Bytes; None when there is no such file."""
        ...

    def chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """The first `limit` bytes, in pieces. The file must be there."""
        ...


class FolderFiles:
    """The files of a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def size(self, name: str) -> int | None:
        """As in Files. Devices and pipes are not files: they could block for ever."""
        try:
            found = os.stat(self._root / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def chunks(self, name: str, limit: int) -> Iterator[bytes]:
        """As in Files."""
        with open(self._root / name, "rb", buffering=0) as file:
            while limit > 0 and (data := file.read(min(CHUNK, limit))):
                limit -= len(data)
                yield data


def read_small(files: Files, name: str, limit: int, where: str) -> bytes | None:
    """A small file's content; None when it is not there. Raises UntrustedDataError (`file-too-large`)."""
    size = files.size(name)
    if size is None:
        return None
    if size > limit:
        raise UntrustedDataError(f"{name} in {where} is longer than {limit} bytes", code="file-too-large")
    return b"".join(files.chunks(name, limit))
