"""The build context: a folder of the host as a tree, without what .dockerignore leaves out."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Protocol

from cache.contexts import STAMP_BYTES, ContextDigests, stamp_of
from engine.layers.entry import Entry, EntryType
from engine.parallel import in_parallel
from machinefile.errors import MachinefileError, UsageError
from machinefile.ignore import IgnoreRules

_CHUNK = 1 << 20
_PAGE = 1 << 12
_THREADS = 4
"""Hash at a time. Opening and reading files mostly waits for the kernel, and hashing leaves the interpreter free."""
_BATCH = 64
"""Files that a thread takes at once: asking for each would cost as much as a small file."""
_FEW_BYTES = 1 << 20
"""Fewer files than a batch and less than this are hashed before threads would have begun."""
_FILE = EntryType.FILE
_NO_FOLLOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class ContextFiles(Protocol):
    """Files that COPY may take: a tree that can be read and hashed. Paths are clean and relative, the root is empty."""

    def entry(self, path: str) -> Entry | None:
        """What stands at a path, no link followed; None for what is not there."""
        ...

    def children(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted by their bytes."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        ...

    def digest(self, path: str) -> str:
        """The sha256 of a file's content, in hex."""
        ...

    def inode(self, path: str) -> tuple[int, int] | None:
        """What is the same for two names of one file; None for a file with a single name."""
        ...


class BuildContext(ContextFiles, Protocol):
    """Those of a build, which somebody may edit while it runs."""

    def hash_all(self, paths: Sequence[str]) -> None:
        """Hash several files side by side, so that `digest` has them at hand."""
        ...

    def check(self, path: str) -> None:
        """Raises MachinefileError (`context-changed`) when a file is no longer what `digest` read."""
        ...


class Context:
    """A folder of the host, read lazily. Owners of its files do not count; sockets are not there.

    Nothing outside the folder is ever read: a link is followed only as if the folder were the root of a system,
    and the host's own links are never followed by the kernel for us. Threads may share one.
    """

    def __init__(
        self, root: Path, rules: IgnoreRules, known: ContextDigests | None = None, *, git_modes: bool = False
    ) -> None:
        """`known` tells what its files hashed to before. With `git_modes` files and directories have those that git
        knows, whatever they have here. Raises UsageError (`context-missing`) when there is no such folder."""
        if not os.path.isdir(root):
            raise UsageError(
                f"the build context {root} is not a folder",
                code="context-missing",
                hint="the last argument of mbuild names the folder whose files COPY may take",
            )
        self.root = root
        self._above = os.path.join(root, "")
        self._rules = rules
        self._known = known
        self._git_modes = git_modes
        self._entries: dict[str, Entry | None] = {"": Entry("", EntryType.DIRECTORY, 0o755)}
        self._children: dict[str, tuple[str, ...]] = {}
        self._inodes: dict[str, tuple[int, int]] = {}
        self._stamps: dict[str, bytes] = {}
        """What the files were when their folder was read, where something may be known of them."""
        self._hashed: dict[str, bytes] = {}
        """What a file was when it was first hashed (STAMP_BYTES), and its sha256: one build sees one content."""

    def entry(self, path: str) -> Entry | None:
        """What stands at a path; None for what is ignored or not there."""
        if path not in self._entries:
            parent, _, name = path.rpartition("/")
            above = self.entry(parent)
            there = above is not None and above.type is EntryType.DIRECTORY and name in self.children(parent)
            if not there:
                return None
        return self._entries.get(path)

    def children(self, path: str) -> tuple[str, ...]:
        """The names in a directory that are not ignored, sorted by their bytes."""
        known = self._children.get(path)
        if known is None:
            known = self._children[path] = tuple(self._scan(path))
        return known

    def inode(self, path: str) -> tuple[int, int] | None:
        """What is the same for two names of one file; None for a file with a single name, and for what is no file."""
        self.entry(path)
        return self._inodes.get(path)

    def open(self, path: str) -> BinaryIO:
        """Open a file of the context for reading.

        Raises MachinefileError (`context-changed`) when it is not a file any more, `context-unreadable`.
        """
        return FileIO(self._open(path)[0])

    def _open(self, path: str) -> tuple[int, os.stat_result]:
        try:
            descriptor = os.open(self._above + path, _NO_FOLLOW)
        except OSError as error:
            raise _unreadable(path, error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise _changed(path)
        return descriptor, status

    def modified(self, path: str) -> int:
        """When a file was last changed: whole seconds since 1970. Raises MachinefileError (`context-unreadable`)."""
        try:
            return os.stat(os.path.join(self.root, path), follow_symlinks=False).st_mtime_ns // 1_000_000_000
        except OSError as error:
            raise _unreadable(path, error) from error

    def digest(self, path: str) -> str:
        """The sha256 of a file's content, in hex, as it was when this was first asked."""
        if not self._is_hashed(path):
            self._hash(path, threading.Event())
        return self._hashed[path][STAMP_BYTES:].hex()

    def hash_all(self, paths: Sequence[str]) -> None:
        """Hash those files whose content is not known yet, several at a time.

        Raises as `open`, for any of them.
        """
        missing = [path for path in paths if not self._is_hashed(path)]
        size = sum(entry.size for entry in map(self.entry, missing) if entry is not None)
        if len(missing) < 2 or (len(missing) < _BATCH and size < _FEW_BYTES):
            return  # `digest` does it
        batches = _batches(missing, max(1, min(_BATCH, len(missing) // _THREADS)))
        lock = threading.Lock()

        def work(stop: threading.Event) -> None:
            while not stop.is_set():
                with lock:
                    batch = next(batches, ())
                if not batch:
                    return
                for path in batch:
                    self._hash(path, stop)

        in_parallel([work] * min(_THREADS, len(missing)), _THREADS)

    def _is_hashed(self, path: str) -> bool:
        if path in self._hashed:
            return True
        stamp = self._stamps.pop(path, None)
        digest = self._known.take(stamp) if self._known is not None and stamp is not None else None
        if digest is None or stamp is None:
            return False
        self._hashed.setdefault(path, stamp + digest)
        return True

    def _hash(self, path: str, stop: threading.Event) -> None:
        begun = self._known.now() if self._known is not None else 0
        descriptor, status = self._open(path)
        try:
            hasher = hashlib.sha256()
            size = max(_PAGE, min(_CHUNK, status.st_size))  # room for a whole chunk would cost more than a small file
            while (chunk := os.read(descriptor, size)) and not stop.is_set():
                hasher.update(chunk)
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(descriptor)
        if stop.is_set():
            return
        # Of two threads that hash a file while somebody writes to it, the first decides what this build has seen.
        self._hashed.setdefault(path, stamp_of(status) + hasher.digest())
        if self._known is not None:
            self._known.learn(status, hasher.digest(), begun)

    def check(self, path: str) -> None:
        """Raises MachinefileError (`context-changed`) when a file is no longer what `digest` read. Costs a stat."""
        if path not in self._hashed:
            return
        try:
            now = stamp_of(os.lstat(self._above + path))
        except OSError as error:
            raise _edited(path) from error
        if not self._hashed[path].startswith(now):
            raise _edited(path)

    def listed(self, found: Iterator[os.DirEntry[str]]) -> Iterable[os.DirEntry[str]]:
        """What is in a directory as the file system lists it, which is in no order; a test may give it in another."""
        return found

    def _scan(self, path: str) -> list[str]:
        try:
            with os.scandir(self.root / path if path else self.root) as found:
                children = sorted(self.listed(found), key=lambda child: os.fsencode(child.name))
        except OSError as error:
            raise _unreadable(path, error) from error
        names = []
        has_rules = bool(self._rules.rules)
        for child in children:
            name = f"{path}/{child.name}" if path else child.name
            is_directory = child.is_dir(follow_symlinks=False)
            ignored = has_rules and self._rules.ignored(name)
            if ignored and (not is_directory or self._rules.prunes(name)):
                continue
            entry = self._read(name, child)
            if entry is None:
                continue
            if ignored:
                # The directory itself is left out; it is there only for what an exception brings back below it.
                self._entries[name] = entry
                if not self.children(name):
                    del self._entries[name]
                    continue
            self._entries[name] = entry
            names.append(child.name)
        return names

    def _read(self, name: str, child: os.DirEntry[str]) -> Entry | None:
        try:
            status = child.stat(follow_symlinks=False)
            kind = stat.S_IFMT(status.st_mode)
            mode = _git_mode(status.st_mode) if self._git_modes else stat.S_IMODE(status.st_mode)
            mtime = status.st_mtime_ns // 1_000_000_000
            if kind == stat.S_IFREG:
                if self._known is not None:
                    self._stamps[name] = stamp_of(status)
                if status.st_nlink > 1:
                    self._inodes[name] = (status.st_dev, status.st_ino)
                return Entry(name, _FILE, mode, 0, 0, status.st_size, mtime)
            if kind == stat.S_IFDIR:
                return Entry(name, EntryType.DIRECTORY, mode, mtime=mtime)
            if kind == stat.S_IFLNK:
                return Entry(name, EntryType.SYMLINK, 0o777, mtime=mtime, link=os.readlink(child.path))
            if kind == stat.S_IFIFO:
                return Entry(name, EntryType.FIFO, mode, mtime=mtime)
        except OSError as error:
            raise _unreadable(name, error) from error
        return None


def _git_mode(mode: int) -> int:
    """One of the two that git keeps, by whether the owner may execute it; a directory's is always the same."""
    return 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644


def _batches(paths: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (paths[at : at + size] for at in range(0, len(paths), size))


def _edited(path: str) -> MachinefileError:
    return MachinefileError.one(
        f"{path!r} changed while it was being built",
        code="context-changed",
        hint="build again when nothing writes to it, or leave it out with .dockerignore",
    )


def _unreadable(path: str, error: OSError) -> MachinefileError:
    return MachinefileError.one(
        f"cannot read {path or '.'!r} of the build context: {error.strerror}",
        code="context-unreadable",
        hint="make it readable, or leave it out with .dockerignore",
    )


def _changed(path: str) -> MachinefileError:
    return MachinefileError.one(
        f"{path!r} changed while the build read it",
        code="context-changed",
        hint="build again when nothing writes into the context",
    )
