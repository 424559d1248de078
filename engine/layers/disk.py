"""A squashfs, made from a tar as it streams by.

`tar2sqfs` (squashfs-tools-ng, checked with 1.2) gets a tar of our own making, never the one that came: it dies of
a path that comes twice and knows no whiteouts. It takes hard links before their file, and an entry for a
directory after what is in it, with all its metadata: so contents go as they come, all else at the end. lz4 and
zstd were measured: zstd -1 makes the smaller disk in less time, lz4 reads a little faster in the guest.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from cache.files import publish
from engine import process
from engine.layers.conveyor import Conveyor, Piece
from engine.layers.entry import Entry, EntryType
from engine.layers.headerwrite import header_blocks
from engine.layers.index import LayerIndex
from engine.layers.names import OPAQUE_XATTR
from engine.layers.tarheader import BLOCK, ZERO_BLOCK
from machinefile.errors import HostError

_PROGRAM = "tar2sqfs"
COMPRESSION = ("-c", "zstd", "-X", "level=1")
"""Part of the names of layers' disks."""
_SQUASHFS_XATTRS = ("user.", "security.", "trusted.")
"""All that squashfs can hold: POSIX ACLs (system.) stay in the layer and are not seen by steps."""
_FINISH_SECONDS = 600.0
_PIPE_BYTES = 1 << 20
"""As much as an ordinary user may ask for: fewer turns between us and tar2sqfs."""


class SquashfsWriter:
    """A squashfs being made. Files first, in any order and each once; then everything else."""

    def __init__(self, pipe: int, child: subprocess.Popen[bytes], temporary: BufferedReader, errors: BinaryIO) -> None:
        self._pipe: int | None = pipe
        self._child = child
        self._file = temporary
        self._temporary = Path(temporary.name)
        self._errors = errors
        self._out = Conveyor(self._send, "disk")

    def add_file(self, entry: Entry, chunks: Iterable[bytes]) -> None:
        """Add a FILE with its content, which must be as long as the entry says."""
        self._put(entry)
        for chunk in chunks:
            self.write(chunk)
        self.write(bytes(-entry.size % BLOCK))

    def begin(self, entry: Entry, header: bytes) -> None:
        """Add a FILE whose content, and zeros up to a whole block, come by `write`. `header` is that of a tar which
        has the same entry."""
        if entry.xattrs:
            self._put(entry)
        else:
            self.write(header)

    def add(self, entry: Entry) -> None:
        """Add anything else."""
        if entry.type is EntryType.WHITEOUT:
            entry = Entry(entry.path, EntryType.CHARACTER, 0, mtime=entry.mtime)
        elif entry.opaque:
            entry = replace(entry, xattrs=(*entry.xattrs, (OPAQUE_XATTR, b"y")))
        self._put(entry)

    def add_others(self, index: LayerIndex, implied: Mapping[str, Entry]) -> None:
        """Add all that a layer holds beside files, and its implied directories as `implied` describes them."""
        for entry in index:
            if entry.type is not EntryType.FILE:
                self.add(entry)
        for path, opaque in index.implied.items():
            self.add(replace(implied[path], opaque=opaque))

    def _put(self, entry: Entry) -> None:
        allowed = tuple(
            (name, value)
            for name, value in entry.xattrs
            if name.startswith(_SQUASHFS_XATTRS) and not name.endswith(".")
        )
        self.write(header_blocks(entry if len(allowed) == len(entry.xattrs) else replace(entry, xattrs=allowed)))

    def write(self, data: Piece) -> None:
        """Some of the content of the FILE that was begun."""
        if self._pipe is None:
            raise ValueError("the disk is finished")
        self._out.write(data)

    def _send(self, data: Piece) -> None:
        if self._pipe is None:
            raise ValueError("the disk is finished")
        try:
            with memoryview(data) as rest:
                sent = 0
                while sent < len(rest):
                    sent += os.write(self._pipe, rest[sent:])
        except BrokenPipeError as error:
            raise self._failure() from error
        except OSError as error:
            raise _cannot_write(self._temporary.parent, error) from error

    def finish(self) -> None:
        """Wait until the disk is whole. Nothing can be added then."""
        self.write(ZERO_BLOCK * 2)
        self._out.finish()
        self._close_pipe()
        try:
            code = self._child.wait(_FINISH_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise HostError(
                "tar2sqfs does not come to its end", code="disk-failed", hint="run: mbuild doctor"
            ) from error
        if code:
            raise self._failure()

    def publish(self, destination: Path, *, flush: bool = False) -> None:
        """Put the finished disk in its place; with `flush` whole or not at all, also when the power fails."""
        try:
            os.fchmod(self._file.fileno(), 0o644)
            if flush:
                os.fsync(self._file.fileno())
                publish(self._temporary, destination)
            else:
                os.replace(self._temporary, destination)
        except OSError as error:
            raise _cannot_write(destination.parent, error) from error

    def close(self) -> None:
        """Let go of it all; a disk that is not finished never will be."""
        if self._pipe is not None:
            self._child.kill()  # nobody is held up by a pipe that is full
            self._out.abandon()
            self._close_pipe()

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _failure(self) -> HostError:
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(10)
        self._errors.seek(0)
        text = self._errors.read(64 << 10).decode(errors="replace").strip()
        if "No space left" in text:
            return _cannot_write(self._temporary.parent, OSError(errno.ENOSPC, text))
        ending = f"exit code {self._child.returncode}"
        return HostError(
            f"tar2sqfs failed ({ending}) while making a layer's disk: {text or 'no message'}",
            code="disk-failed",
            hint="run: mbuild doctor",
        )


def _cannot_write(folder: Path, error: OSError) -> HostError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return HostError(
        f"a layer's disk cannot be written in {folder}: {error.strerror}",
        code="disk-full" if full else "disk-failed",
        hint="free some space there, or point --cache-dir elsewhere" if full else "is the folder yours?",
    )


@contextmanager
def beginning_disk(folder: Path, scratch: Path | None = None) -> Iterator[SquashfsWriter]:
    """A disk in the making, to be committed into `folder`, or finished and published there, by who asks for it. Until
    then it has a temporary name in `scratch`, or in `folder`; it is gone on leaving unless it was."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".making-", suffix=".squashfs", dir=scratch or folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        with temporary.open("rb") as file, tempfile.TemporaryFile() as errors:
            reading, writing = os.pipe()
            with suppress(OSError):  # where there are many such pipes already, it stays small
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            try:
                child = process.spawn(
                    [_PROGRAM, "--quiet", "--force", "--no-skip", *COMPRESSION, name],
                    stdin=reading,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    hint="it is in the package squashfs-tools-ng",
                )
            except HostError:
                os.close(writing)
                raise
            finally:
                os.close(reading)
            with process.running(child):
                writer = SquashfsWriter(writing, child, file, errors)
                try:
                    yield writer
                finally:
                    writer.close()
    finally:
        with suppress(OSError):  # it is not there, or the disk fails, which was told already
            temporary.unlink()


@contextmanager
def making_disk(destination: Path) -> Iterator[SquashfsWriter]:
    """Make a disk of anything: it is put at `destination` when the context is left without an exception, and lasts."""
    with beginning_disk(destination.parent) as writer:
        yield writer
        writer.finish()
        writer.publish(destination, flush=True)
