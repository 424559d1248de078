"""Writing files so that a crash leaves the old one, or the new one, and nothing in between."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machinefile.errors import StoreError


@contextmanager
def store_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into a StoreError that says what was being done.

    Codes: `store-full`, `store-read-only`, `store-failed`.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"no space left while {what}",
                code="store-full",
                hint="free some space (mbuild cache prune), or put the store elsewhere with --cache-dir",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(
                f"not allowed to go on while {what}: {error}",
                code="store-read-only",
                hint="choose a folder that you may write to with --cache-dir or MBUILD_CACHE_DIR",
            ) from error
        raise StoreError(f"failed while {what}: {error}", code="store-failed") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory last: a rename alone may be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make everything in a folder last. Raises OSError."""
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(parent))


def publish(temporary: Path, final: Path) -> None:
    """Give a finished file (already flushed to the disk) its name, durably; replaces what was there."""
    os.replace(temporary, final)
    sync_directory(final.parent)


def file_digest(path: Path) -> str:
    """`sha256:` and the hex digits of a file's content. Raises OSError."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes, temporary_folder: Path) -> None:
    """Write a small file whole: temporary name on the same file system, fsync, rename."""
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=temporary_folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        publish(Path(name), path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
