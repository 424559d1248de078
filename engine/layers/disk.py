"""Layers as read-only disks: a squashfs each, made from the tar as it streams by.

`tar2sqfs` (squashfs-tools-ng, checked with 1.2) gets a tar of our own making, never the one that came: it dies of
a path that comes twice and knows no whiteouts. It takes hard links before their file, and an entry for a
directory after what is in it, with all its metadata: so contents go as they come, all else at the end. lz4 and
zstd were measured: zstd -1 makes the smaller disk in less time, lz4 reads a little faster in the guest.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Protocol

from cache.files import publish
from engine import process
from engine.layers.compression import Source, decompress
from engine.layers.conveyor import Conveyor, Piece
from engine.layers.entry import Entry, EntryType
from engine.layers.index import KeptFiles, LayerIndex
from engine.layers.limits import LayerLimits
from engine.layers.names import OPAQUE_XATTR
from engine.layers.root import RootView, default_directory
from engine.layers.tarheader import BLOCK, ZERO_BLOCK
from engine.layers.tarread import LayerReader, Member
from engine.layers.tarwrite import header_blocks
from machinefile.errors import HostError, UntrustedDataError
from machinefile.values import dataclass

DISK_VERSION = 1
"""Raised when the same layer is to give other disks: it is in their names."""
_PROGRAM = "tar2sqfs"
_COMPRESSION = ("-c", "zstd", "-X", "level=1")
_SQUASHFS_XATTRS = ("user.", "security.", "trusted.")
"""All that squashfs can hold: POSIX ACLs (system.) stay in the layer and are not seen by steps."""
_FINISH_SECONDS = 600.0
_PIPE_BYTES = 1 << 20
"""As much as an ordinary user may ask for: fewer turns between us and tar2sqfs."""


class Blob(Source, Protocol):
    """What a layer is read from; twice if need be."""

    def seek(self, offset: int, /) -> int:
        """Go to a place in it."""
        ...


@dataclass(frozen=True, slots=True)
class PreparedLayer:
    """A layer that was checked from end to end."""

    index: LayerIndex
    disk: Path | None
    """The squashfs; None when none was asked for."""


def disk_id(diff_id: str, implied: Mapping[str, Entry]) -> str:
    """Names a layer's disk: 64 hexadecimal digits.

    A disk holds the metadata that implied directories have in the layers below; the same layer on another base may
    thus be another disk. On most bases it is not.
    """
    told = [
        [path, entry.mode, entry.uid, entry.gid, entry.mtime, [[name, value.hex()] for name, value in entry.xattrs]]
        for path, entry in sorted(implied.items())
        if _plain(entry) != default_directory(path)
    ]
    record = json.dumps([DISK_VERSION, _COMPRESSION, diff_id, told])
    return hashlib.sha256(record.encode("ascii")).hexdigest()


def disk_path(folder: Path, index: LayerIndex, below: RootView) -> Path:
    """Where `prepare_layer` and `make_disk` put the disk of a layer that is laid on `below`."""
    return folder / f"{disk_id(index.diff_id, below.implied(index))}.squashfs"


def prepare_layer(
    blob: Blob,
    *,
    diff_id: str,
    limits: LayerLimits,
    folder: Path | None = None,
    below: RootView | None = None,
    scratch: Path | None = None,
) -> PreparedLayer:
    """Check a layer, index it and make its disk, in one pass over its blob (compressed or not, at its start).

    The disk goes to `disk_path(folder, index, below)`; without a folder none is made. `below` is what the layer is
    laid on, nothing when not given. `scratch` is where the disk is while it is half made, on the same file system as
    `folder`, which it is when not given. A layer that holds a file twice takes a second pass: `blob` must be
    seekable. The disk is not flushed. On any error nothing is left behind.
    Raises UntrustedDataError: `diff-id-mismatch`, `layer-...`; HostError: `program-missing`, `disk-failed`,
    `disk-full`.
    """
    root = below if below is not None else RootView(())
    if folder is None:
        return PreparedLayer(_read(blob, diff_id, limits, None)[0], None)
    with _squashfs(folder, scratch) as disk:
        index, repeated = _read(blob, diff_id, limits, disk)
        implied = root.implied(index)
        destination = folder / f"{disk_id(index.diff_id, implied)}.squashfs"
        if not repeated:
            disk.add_others(index, implied)
            disk.finish()
            disk.publish(destination)
            return PreparedLayer(index, destination)
    blob.seek(0)
    return PreparedLayer(index, make_disk(blob, folder, index=index, below=root, limits=limits, scratch=scratch))


def make_disk(
    blob: Source,
    folder: Path,
    *,
    index: LayerIndex,
    below: RootView | None = None,
    limits: LayerLimits | None = None,
    scratch: Path | None = None,
) -> Path:
    """The disk of a layer that was checked before, made from its blob unless it is there.

    Raises as `prepare_layer`.
    """
    implied = (below if below is not None else RootView(())).implied(index)
    destination = folder / f"{disk_id(index.diff_id, implied)}.squashfs"
    if destination.exists():
        return destination
    reader = LayerReader(decompress(blob, limits or LayerLimits()), limits or LayerLimits())
    with _squashfs(folder, scratch) as disk:
        for member in reader:
            entry = member.entry
            if index.type_of(entry.path) is EntryType.FILE and index.offset(entry.path) == member.offset:
                disk.add_file(entry, member.content.chunks())
        _check_diff_id(reader, index.diff_id)
        disk.add_others(index, implied)
        disk.finish()
        disk.publish(destination)
    return destination


def _read(blob: Source, diff_id: str, limits: LayerLimits, disk: SquashfsWriter | None) -> tuple[LayerIndex, bool]:
    """The index, and whether the disk got a file that is not in the layer any more."""
    reader = LayerReader(decompress(blob, limits), limits)
    kept = KeptFiles()
    streamed: set[str] = set()
    repeated = False
    for member in reader:
        path = member.entry.path
        if member.entry.type is not EntryType.FILE:
            continue
        repeated = repeated or path in streamed
        streamed.add(path)
        _pass_on(member, None if repeated else disk, kept)
    _check_diff_id(reader, diff_id)
    index = LayerIndex.of(reader.tree.finish(), diff_id=diff_id, size=reader.stream.offset, kept=kept)
    return index, repeated or any(index.type_of(path) is not EntryType.FILE for path in streamed)


def _pass_on(member: Member, disk: SquashfsWriter | None, kept: KeptFiles) -> None:
    chunks: Iterable[bytes] = ()
    if kept.wants(member.entry):
        content = member.content.read()
        kept.add(member.entry.path, content)
        chunks = (content,)
    elif disk is not None:
        chunks = member.content.chunks()
    if disk is not None:
        disk.add_file(member.entry, chunks)


def _check_diff_id(reader: LayerReader, expected: str) -> None:
    found = reader.stream.diff_id
    if found != expected:
        raise UntrustedDataError(
            f"the layer is not what its image says: its content is {found}, not {expected}",
            code="diff-id-mismatch",
            hint="the image is damaged: pull it again, or build it again",
        )


def _plain(entry: Entry) -> Entry:
    return replace(entry, opaque=False)


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
def _squashfs(folder: Path, scratch: Path | None = None) -> Iterator[SquashfsWriter]:
    """A disk in the making, under a temporary name in `scratch`; gone on leaving unless it was committed."""
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
                    [_PROGRAM, "--quiet", "--force", "--no-skip", *_COMPRESSION, name],
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
def beginning_disk(folder: Path, scratch: Path) -> Iterator[SquashfsWriter]:
    """A disk in the making, in `scratch`, to be finished and published into `folder` by who asks for it; gone on
    leaving unless it was."""
    with _squashfs(folder, scratch) as writer:
        yield writer


@contextmanager
def making_disk(destination: Path) -> Iterator[SquashfsWriter]:
    """Make a disk of anything: it is put at `destination` when the context is left without an exception, and lasts."""
    with _squashfs(destination.parent) as writer:
        yield writer
        writer.finish()
        writer.publish(destination, flush=True)
