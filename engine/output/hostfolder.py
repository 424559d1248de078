"""A folder of the host that is written into without ever leaving it, whatever stands in it and whoever changes it."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.layers.names import encode, parent_of
from machinefile.errors import UntrustedDataError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OWNER_ALL = 0o700


class HostFolder:
    """The folder, held open. Paths are as Entry has them: clean, relative, the empty string for the folder itself.

    Every step of a path is opened by itself, from the one before, and never through a symbolic link: neither one
    that was there nor one that somebody puts there meanwhile leads out. What is new gets a random name first and
    then, whole, takes the place of what was there; a folder in its place is removed with all that is in it.
    All methods raise OSError.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        # A link that the user named is the user's own choice.
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._last: tuple[str, int] | None = None

    def __enter__(self) -> HostFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        os.close(self._root)

    def make_directory(self, path: str) -> None:
        """A directory that its owner may use, new or there already; anything else in its place is removed."""
        parent, name = self._place(path)
        try:
            os.mkdir(name, _OWNER_ALL, dir_fd=parent)
            return
        except FileExistsError:
            mode = os.lstat(name, dir_fd=parent).st_mode
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, _OWNER_ALL, dir_fd=parent)
        elif mode & _OWNER_ALL != _OWNER_ALL:
            self._let_in(parent, name, mode)

    def _let_in(self, parent: int, name: bytes, mode: int) -> None:
        # O_PATH needs no right to read it; a link would not be a directory. Python has no fchmodat without following.
        held = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{held}", stat.S_IMODE(mode) | _OWNER_ALL)
        finally:
            os.close(held)

    @contextmanager
    def file(self, path: str) -> Iterator[int]:
        """A new file's descriptor; it gets its name when the context is left without an exception."""
        parent, name = self._place(path)
        temporary = _temporary()
        try:
            descriptor = os.open(temporary, _NEW_FILE, 0o600, dir_fd=parent)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            self._replace(parent, temporary, name)
        finally:
            _remove(temporary, parent)

    def symlink(self, path: str, target: str, mtime: float) -> None:
        """A symbolic link, whatever its target: it is written, never followed."""

        def make(name: bytes, parent: int) -> None:
            os.symlink(encode(target), name, dir_fd=parent)
            os.utime(name, (mtime, mtime), dir_fd=parent, follow_symlinks=False)

        self._put(path, make)

    def fifo(self, path: str, mode: int, mtime: float) -> None:
        """A named pipe."""

        def make(name: bytes, parent: int) -> None:
            os.mkfifo(name, 0o600, dir_fd=parent)
            held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                os.chmod(f"/proc/self/fd/{held}", mode)
            finally:
                os.close(held)
            os.utime(name, (mtime, mtime), dir_fd=parent, follow_symlinks=False)

        self._put(path, make)

    def link(self, path: str, existing: str) -> None:
        """A hard link to another file of the folder."""
        source = self._open(parent_of(existing))
        try:
            self._put(path, lambda name, parent: _link(existing, source, name, parent))
        finally:
            os.close(source)

    @contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """The descriptor of a directory in it."""
        descriptor = self._open(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _put(self, path: str, make: Callable[[bytes, int], None]) -> None:
        parent, name = self._place(path)
        temporary = _temporary()
        try:
            make(temporary, parent)
            self._replace(parent, temporary, name)
        finally:
            _remove(temporary, parent)

    def _replace(self, parent: int, temporary: bytes, name: bytes) -> None:
        try:
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except IsADirectoryError:
            # With a dir_fd rmtree opens every folder as we do and follows no link.
            shutil.rmtree(name, dir_fd=parent)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)

    def _place(self, path: str) -> tuple[int, bytes]:
        """The directory that a path stands in, which stays open for the paths that follow, and its name there."""
        folder, slash, name = path.rpartition("/")
        if slash and not folder:
            raise _bad(path)
        if self._last is None or self._last[0] != folder:
            self._forget()
            self._last = (folder, self._open(folder))
        return self._last[1], _checked(name, path)

    def _open(self, path: str) -> int:
        descriptor = os.dup(self._root)
        for part in path.split("/") if path else ():
            try:
                below = os.open(_checked(part, path), _DIRECTORY, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _forget(self) -> None:
        if self._last is not None:
            os.close(self._last[1])
            self._last = None


def _link(existing: str, source: int, name: bytes, parent: int) -> None:
    old = _checked(existing.rpartition("/")[2], existing)
    os.link(old, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _checked(name: str, path: str) -> bytes:
    """The reader of layers lets no such name through; here it would be the host's files that pay if it did."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise _bad(path)
    return encode(name)


def _bad(path: str) -> UntrustedDataError:
    return UntrustedDataError(f"{path!r} is no path in an image", code="layer-path")


def _temporary() -> bytes:
    return f".mbuild-{secrets.token_hex(8)}".encode()


def _remove(name: bytes, parent: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
