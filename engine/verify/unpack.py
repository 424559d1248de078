"""A layer as ordinary files below a folder, for a program that compares folders.

Nothing in it can reach outside the folder or be more than a file: links, devices and the rest become small files that
say what they are, and who owns a file and its mode are left out.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.layers.content import LayerFiles
from engine.layers.entry import EntryType
from engine.layers.root import Located
from engine.verify.layers import Side
from machinefile.errors import HostError

_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(side: Side, folder: Path) -> None:
    """Write a layer into a folder that is not there yet. Raises UntrustedDataError, HostError `unpack-failed`."""
    try:
        folder.mkdir(parents=True)
        index = side.index()
        if index is None or side.open is None:
            return
        for entry in index:
            if entry.type is EntryType.DIRECTORY:
                (folder / entry.path).mkdir(parents=True, exist_ok=True)
            elif entry.type is not EntryType.FILE:
                said = entry.link or ":".join(map(str, entry.device))
                _write(folder / entry.path, f"{entry.type.value} {said}\n".encode("utf-8", "surrogateescape"))
        wanted = [Located(entry, 0) for entry in index if entry.type is EntryType.FILE]
        for located, content in LayerFiles((index,), (side.open,), side.limits).stream(wanted):
            with os.fdopen(_opened(folder / located[0].entry.path), "wb") as out:
                for piece in content.chunks():
                    out.write(piece)
    except OSError as error:
        raise HostError(
            f"a layer cannot be written to {folder}: {error.strerror}",
            code="unpack-failed",
            hint="leave --diffoscope out, or make room",
        ) from error


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(_opened(path), "wb") as out:
        out.write(data)


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, _FILE, 0o600)
