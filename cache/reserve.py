"""Room on the disk that the store holds for its own cleaning: where nothing can be written, nothing can be removed
either, since names, the index and locks are written then."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_NAME = "reserve"
_SIZE = 4 << 20
"""Bytes: enough for the index to write down that a great many entries are gone."""
_PLENTY = 16 * _SIZE
"""Bytes that must be free for the room to be taken: others need it more on a disk with less."""
_FULL = 256 << 10
"""Bytes: a file system with less may refuse anything."""


def keep_reserve(root: Path) -> None:
    """Take the room, unless it is taken or the disk has little left. To be called often: fails in silence."""
    with suppress(OSError):
        if _taken(root) < _SIZE and free_bytes(root) >= _PLENTY:
            _take(root, _SIZE)


def retake_reserve(root: Path) -> None:
    """Take the room that `release_reserve` gave back, or what is left of it. Fails in silence."""
    size = _SIZE
    while size >= _FULL:
        with suppress(OSError):
            _take(root, size)
            return
        size //= 2


def _taken(root: Path) -> int:
    try:
        return (root / _NAME).stat().st_size
    except FileNotFoundError:
        return 0


def _take(root: Path, size: int) -> None:
    path = root / _NAME
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def release_reserve(root: Path) -> bool:
    """Give the room back; gives whether there was any. The caller takes it again when it has cleaned up."""
    try:
        (root / _NAME).unlink()
    except OSError:
        return False
    return True


def make_room(root: Path, *, aside: bool) -> None:
    """Remove what may go at any time and is written down nowhere; `aside`: older stores too. Fails in silence."""
    import shutil

    with suppress(OSError):
        if not (root / "contexts").is_symlink():
            for path in (root / "contexts").iterdir():
                path.unlink()
    for path in (*root.glob("index.damaged.*"), *(root.glob("aside.*") if aside else ())):
        shutil.rmtree(path, ignore_errors=True)


def is_full(folder: Path) -> bool:
    """Whether the file system of a folder has as good as nothing left; False where that cannot be found out."""
    try:
        return free_bytes(folder) < _FULL
    except OSError:
        return False


def free_bytes(folder: Path) -> int:
    """What this user may still write to the file system of a folder. Raises OSError."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
