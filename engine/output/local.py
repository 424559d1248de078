"""-o type=local: the image's files in a folder, as an ordinary user can have them.

As BuildKit's local exporter does it: modes and times are kept, owners are the user's, files are added to what is in the
folder or take the place of what has their name. Unlike it, set-id bits of files are not kept (with another owner
they would let anybody act as the user; cp drops them for the same reason), and devices are never made.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from engine.layers.compression import CHUNK
from engine.layers.content import LayerFiles
from engine.layers.entry import Entry, EntryType
from engine.layers.flatten import Merged
from engine.layers.tarread import Content
from engine.output.files import output_errors
from engine.output.hostfolder import HostFolder
from machinefile.errors import InterruptedBuildError
from machinefile.values import dataclass

_SET_ID = 0o6000
_KEPT_XATTRS = "user."
"""All that needs no privilege; and what it would give, like capabilities, must not be given here."""


def write_local(merged: Sequence[Merged], files: LayerFiles, destination: Path, cancelled: threading.Event) -> str:
    """Write the merged files of an image into a folder, new or there already, and give what the user should know.

    Each file is there whole or not at all; a failure leaves those that were written before. Files as they come in
    their layers, then links, then what directories are like, the deepest first: one may forbid writing.
    Raises HostError (`output-failed`, `output-full`), UntrustedDataError, InterruptedBuildError.
    """
    with output_errors(str(destination)):
        folder = HostFolder(destination)
    with folder:
        export = _Export(folder, destination, cancelled)
        directories = [one.entry for one in merged if one.entry.type is EntryType.DIRECTORY and one.entry.path]
        for entry in directories:
            with output_errors(export.name(entry)):
                folder.make_directory(entry.path)
        export.write_files(merged, files)
        for one in merged:
            export.write_other(one.entry)
        for entry in reversed(directories):
            export.settle(entry)
    return export.note()


@dataclass
class _Export:
    folder: HostFolder
    destination: Path
    cancelled: threading.Event
    lost: Counter[str] = field(default_factory=Counter)

    def name(self, entry: Entry) -> str:
        """For messages."""
        return os.path.join(self.destination, entry.path.encode("utf-8", "surrogateescape").decode(errors="replace"))

    def write_files(self, merged: Sequence[Merged], files: LayerFiles) -> None:
        """All that has content."""
        wanted = {(one.source.layer, one.source.entry.path): one for one in merged if one.entry.type is EntryType.FILE}
        for located, content in files.stream([one.source for one in wanted.values()]):
            entry = wanted[located[0].layer, located[0].entry.path].entry
            with output_errors(self.name(entry)), self.folder.file(entry.path) as descriptor:
                self._copy(content, descriptor)
                self._describe(descriptor, entry)

    def write_other(self, entry: Entry) -> None:
        """What is neither directory nor file."""
        if self.cancelled.is_set():
            raise InterruptedBuildError
        with output_errors(self.name(entry)):
            match entry.type:
                case EntryType.HARDLINK:
                    self.folder.link(entry.path, entry.link)
                case EntryType.SYMLINK:
                    self._count_owner(entry)
                    self.folder.symlink(entry.path, entry.link, entry.mtime)
                case EntryType.FIFO:
                    self._count_owner(entry)
                    self.folder.fifo(entry.path, entry.mode & ~_SET_ID, entry.mtime)
                case EntryType.CHARACTER | EntryType.BLOCK:
                    self.lost["devices"] += 1

    def settle(self, entry: Entry) -> None:
        """A directory's mode, time and attributes, once nothing is put into it any more."""
        with output_errors(self.name(entry)), self.folder.directory(entry.path) as descriptor:
            self._describe(descriptor, entry)

    def note(self) -> str:
        """One line about what a folder could not hold; empty when it holds all."""
        if not self.lost:
            return ""
        counted = ", ".join(f"{count} {what}" for what, count in sorted(self.lost.items()))
        return f"{self.destination} lacks what a folder of yours cannot have: {counted} (type=tar keeps them)"

    def _copy(self, content: Content, descriptor: int) -> None:
        while chunk := content.read(CHUNK):
            if self.cancelled.is_set():
                raise InterruptedBuildError
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def _describe(self, descriptor: int, entry: Entry) -> None:
        self._count_owner(entry)
        mode = entry.mode
        if entry.type is EntryType.FILE and mode & _SET_ID:
            mode &= ~_SET_ID
            self.lost["set-id bits"] += 1
        for attribute, value in entry.xattrs:
            if not self._keep(descriptor, attribute, value):
                self.lost["extended attributes"] += 1
        os.fchmod(descriptor, mode)
        os.utime(descriptor, (entry.mtime, entry.mtime))

    def _keep(self, descriptor: int, attribute: str, value: bytes) -> bool:
        if attribute.startswith(_KEPT_XATTRS):
            with suppress(OSError):  # the file system may have none
                os.setxattr(descriptor, attribute.encode("utf-8", "surrogateescape"), value)
                return True
        return False

    def _count_owner(self, entry: Entry) -> None:
        """That root's files are the user's now goes without saying."""
        if (entry.uid, entry.gid) not in ((0, 0), (os.getuid(), os.getgid())):
            self.lost["owners other than root"] += 1
