"""A layer as ordinary files below a folder, for a program that compares folders.

Nothing in it can reach outside the folder or be more than a file: links, devices and the rest become small files that
say what they are, and who owns a file and its mode are left out. In place of a file with a secret of the build in it
is one that says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from engine.layers.content import LayerFiles
from engine.layers.entry import EntryType
from engine.layers.root import Located
from engine.secrets import Finder, Secrets
from engine.verify.layers import Side
from machinefile.errors import HostError

_HIDDEN = b"a secret of the build is in this file\n"
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(side: Side, folder: Path, secrets: Secrets) -> None:
    """Write a layer into a folder that is not there yet. Raises UntrustedDataError, HostError `unpack-failed`."""
    try:
        folder.mkdir(parents=True)
        index = side.index()
        if index is None or side.open is None:
            return
        for entry in index:
            path = folder / secrets.masked(entry.path)
            if entry.type is EntryType.DIRECTORY:
                path.mkdir(parents=True, exist_ok=True)
            elif entry.type is not EntryType.FILE:
                said = secrets.masked(entry.link) or ":".join(map(str, entry.device))
                with _opened(path) as out:
                    out.write(f"{entry.type.value} {said}\n".encode("utf-8", "surrogateescape"))
        wanted = [Located(entry, 0) for entry in index if entry.type is EntryType.FILE]
        for located, content in LayerFiles((index,), (side.open,), side.limits).stream(wanted):
            finder = Finder(secrets)
            with _opened(folder / secrets.masked(located[0].entry.path)) as out:
                for piece in content.chunks():
                    if finder.feed(piece) is not None:
                        out.seek(0)
                        out.truncate()
                        out.write(_HIDDEN)
                        break
                    out.write(piece)
    except OSError as error:
        raise HostError(
            f"a layer cannot be written to {folder}: {error.strerror}",
            code="unpack-failed",
            hint="leave --diffoscope out, or make room",
        ) from error


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, _FILE, 0o600), "wb")
