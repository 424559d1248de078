"""ADD of a local tar archive: recognised by its content, and unpacked as a tree of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO, cast

from engine.layers.compression import decompress
from engine.layers.entry import EntryType
from engine.layers.index import KeptFiles, LayerIndex
from engine.layers.limits import LayerLimits
from engine.layers.root import RootView
from engine.layers.tarread import LayerReader
from engine.steps.draft import Copied, Draft
from engine.steps.layertree import LayerTree
from engine.xz import XzFile, XzMemoryError
from machinefile.errors import MachinefileError, UntrustedDataError

_BZIP2 = b"BZh"
_XZ = b"\xfd7zXZ\x00"
_HEAD = 6
_STEP = 16 << 10


class ArchiveTree:
    """A tar archive that was read once, from end to end."""

    def __init__(self, number: int, index: LayerIndex, opener: Callable[[], BinaryIO]) -> None:
        self.number = number
        """Which of a copy's archives it is."""
        self.index = index
        self.open = opener
        """Opens its tar, decompressed or not, at its start."""
        self.tree = LayerTree(RootView([index]))


def unpack(archive: ArchiveTree, destination: str, draft: Draft, *, keep_owner: bool) -> None:
    """Write what is in an archive onto the draft, below a directory that is made if it is missing.

    As Docker unpacks: what an entry meets is replaced, whatever it is; only a directory stays with what it holds, and
    takes the entry's mode and owner. Owners are the archive's with `keep_owner`, else the draft's.
    """
    top = draft.resolve(destination)
    draft.make_directories(top)
    _Unpacker(archive, draft, keep_owner).place("", top)


class _Unpacker:
    def __init__(self, archive: ArchiveTree, draft: Draft, keep_owner: bool) -> None:
        self._archive = archive
        self._draft = draft
        self._owner = None if keep_owner else draft.owner

    def place(self, path: str, destination: str) -> None:
        tree = self._archive.tree
        entry = tree.entry(path)
        if entry is None:
            return
        uid, gid = self._owner or (entry.uid, entry.gid)
        dressed = replace(entry, path=destination, uid=uid, gid=gid, opaque=False)
        if entry.type is not EntryType.DIRECTORY:
            source = path if entry.type is EntryType.FILE else None
            self._draft.put(Copied(dressed, source=source, archive=self._archive.number))
            return
        if path in self._archive.index.implied:
            destination = self._draft.resolve(destination)
            self._draft.make_directories(destination)
        elif destination:
            self._draft.put(Copied(dressed))
        for name in tree.children(path):
            self.place("/".join(filter(None, (path, name))), "/".join(filter(None, (destination, name))))


def read_archive(number: int, name: str, open_file: Callable[[], BinaryIO], limits: LayerLimits) -> ArchiveTree | None:
    """Index an archive; None for a file that is none: one whose content, decompressed, does not begin as a tar.

    gzip, bzip2, xz, zstd and plain tars are archives, as in Docker. Raises MachinefileError (`archive-unusable`) for
    an archive that is damaged or hostile further on.
    """

    def opened() -> BinaryIO:
        return _plain(open_file())

    with opened() as file:
        try:
            reader = LayerReader(decompress(file, limits), limits)
            members = iter(reader)
            member = next(members, None)
        except XzMemoryError as error:
            raise _unusable(name, error) from error
        except (UntrustedDataError, OSError, EOFError):
            return None
        if member is None:
            return None
        kept = KeptFiles()
        try:
            while member is not None:
                if member.entry.type is EntryType.WHITEOUT:
                    raise UntrustedDataError(
                        f"it holds the file .wh.{member.entry.path.rpartition('/')[2]}, which no image can hold",
                        code="layer-path",
                    )
                member = next(members, None)
        except (UntrustedDataError, OSError, EOFError) as error:
            raise _unusable(name, error) from error
    stream = reader.stream
    index = LayerIndex.of(reader.tree.finish(), diff_id=stream.diff_id, size=stream.offset, kept=kept)
    return ArchiveTree(number, index, opened)


def _unusable(name: str, error: Exception) -> MachinefileError:
    return MachinefileError.one(
        f"the archive {name!r} cannot be unpacked: {error}",
        code="archive-unusable",
        hint="make it anew, or copy it as a file with COPY",
    )


def _plain(file: BinaryIO) -> BinaryIO:
    """The file, through the decompressors that layers have no use for. They give what they have, as it comes: so much
    of an archive that is cut short must be seen as to know that it is one."""
    head = file.read(_HEAD)
    file.seek(0)
    if head.startswith(_BZIP2):
        return cast(BinaryIO, _Bzip2(file))
    if head == _XZ:
        return cast(BinaryIO, XzFile(file))
    return file


class _Bzip2(io.RawIOBase):
    """Closes the file below it too, which the standard library's own leaves open."""

    def __init__(self, file: BinaryIO) -> None:
        import bz2

        self._file = file
        self._outer = bz2.BZ2File(file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object, /) -> int:
        return self._outer.readinto(memoryview(buffer).cast("B")[:_STEP])  # type: ignore[arg-type]

    def close(self) -> None:
        super().close()
        self._outer.close()
        self._file.close()
