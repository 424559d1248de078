"""Files of a cache in a folder: whole and on the disk under their name, or not there."""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cache.carry.place import Sink
from cache.files import publish
from machinefile.errors import HostError

_SUFFIX = ".tmp"


@contextmanager
def folder_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into a HostError (`cache-folder`); `what` names the folder."""
    try:
        yield
    except OSError as error:
        raise unusable(what, error.strerror or str(error)) from error


def unusable(what: str, why: str) -> HostError:
    """For a folder that cannot be used."""
    return HostError(
        f"the {what} cannot be used as a cache: {why}",
        code="cache-folder",
        hint="check the path, its rights and the space left",
    )


def write_durably(final: Path, temporary_folder: Path, what: str, fill: Callable[[Sink], object]) -> None:
    """Write a file of any size: `fill` gets what to write with. Raises HostError (`cache-folder`) and what it raises.

    It gets the rights that the umask gives, as the folder may be for others too.
    """
    temporary = temporary_folder / (secrets.token_hex(8) + _SUFFIX)
    try:
        with folder_errors(what):
            file = open(temporary, "xb", buffering=0)  # noqa: SIM115  (closed below, and errors told apart)
        with file:

            def write(data: bytes) -> None:
                with folder_errors(what):
                    rest = memoryview(data)
                    while rest:
                        rest = rest[file.write(rest) :]

            fill(write)
            with folder_errors(what):
                os.fsync(file.fileno())
        with folder_errors(what):
            publish(temporary, final)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(temporary_folder: Path, seconds: float) -> None:
    """Remove what killed processes left: files that nobody has written to for that long."""
    now = time.time()
    for path in temporary_folder.glob("*" + _SUFFIX):
        with suppress(OSError):
            if now - path.stat().st_mtime > seconds:
                path.unlink()


def open_regular(path: Path) -> BinaryIO | None:
    """A file to read, unbuffered; None where there is none. A pipe in its place would be waited for forever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    return None


def read_at_most(file: BinaryIO, most: int) -> bytes:
    """The file's content, cut off after `most` bytes."""
    parts: list[bytes] = []
    while most and (part := file.read(most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)
