"""A microVM's two disks, each glued from files by a vmdk descriptor: one to read (the layers), one to write.

A virtio disk costs about 25 ms of every step under TCG, so there are two however many layers there are; the guest
cuts them up again at known offsets. Source: VMware's "Virtual Disk Format 1.1", flat extents.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from engine import process
from engine.vm.guestdisks import CHANGES_SIZE, LEAD, SLOT, SLOTS, SLOTS_END, DiskMap, Place, Region, lay_out
from engine.vm.qemu_argv import DISK_SIZE
from machinefile.errors import HostError
from machinefile.values import dataclass

SECTOR = 512
LAYER_LIMIT = 250
"""Layers that one root may have: a disk has at most 255 partitions, and some may still come."""
SPARE_SIZE = 64 << 20
"""Bytes that a layer may have which comes on top of a disk that was made ahead: it is copied."""
_SCRATCH = "scratch"
_LEAD = "lead"
_SCRATCH_VERSION = 1
_FICLONE = 0x40049409
"""Of ioctl_ficlonerange(2)."""
_HINT = "run: sudo apt-get install e2fsprogs"


@dataclass(frozen=True, slots=True)
class Extent:
    """A file, or its start, as a part of a disk."""

    name: str
    """Relative to the descriptor."""
    length: int
    """Bytes, a multiple of 512."""


def vmdk_descriptor(extents: Sequence[Extent]) -> str:
    """A descriptor that lays files one after the other.

    The access is always RW: QEMU passes over extents marked RDONLY, and opens all of them read-only when the
    disk is.
    """
    lines = [f'RW {extent.length // SECTOR} FLAT "{extent.name}" 0' for extent in extents]
    head = '# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n'
    return head + "\n".join(lines) + '\n\nddb.adapterType = "ide"\n'


@dataclass(frozen=True, slots=True)
class Disks:
    """The disks of one machine, in its private folder."""

    layers: str | None
    writable: str
    map: DiskMap
    changes: Path
    spare: tuple[Place, ...] = ()
    """Where layers may still come; the files that are to hold them lie beside `changes`."""

    @property
    def scratch(self) -> Path:
        """The file with the file system that the step writes to."""
        return self.changes.with_name(_SCRATCH)

    def room_for(self, layers: Sequence[Path]) -> bool:
        """Whether these can still be laid on top."""
        there = len(self.map.layers) + len(self.map.extra)
        if len(layers) > len(self.spare) or there + len(layers) > LAYER_LIMIT:
            return False
        try:
            return all(layer.stat().st_size <= SPARE_SIZE for layer in layers)
        except OSError:
            return False

    def add(self, layers: Sequence[Path]) -> tuple[Place, ...]:
        """Lay layers on top, lowest first, on a disk that is in use; gives where they are. Raises HostError."""
        places = []
        for number, (layer, place) in enumerate(zip(layers, self.spare, strict=False)):
            with _disk_errors(self.changes.parent):
                copy_into(layer, self.changes.with_name(f"spare-{number}"))
                places.append(replace(place, region=replace(place.region, length=_whole_sectors(layer))))
        return tuple(places)


def make_disks(
    folder: Path,
    layers: Sequence[Path],
    scratch: Path,
    extra: Sequence[Path] = (),
    caches: Sequence[Path] = (),
    *,
    spare: int = 0,
) -> Disks:
    """Make the descriptors and the files behind them in a machine's folder. `extra`: further layers, for mounts;
    `caches`: disks that are written to where they are; `spare`: how many layers may be added later.

    Raises HostError: `layer-missing`, `layers-too-many`, `disks-too-large`, `disk-unusable`.
    """
    if len(layers) + len(extra) > LAYER_LIMIT:
        raise HostError(
            f"the root and the mounts have {len(layers) + len(extra)} layers; a microVM takes {LAYER_LIMIT} at most",
            code="layers-too-many",
            hint="merge some of the base image's layers",
        )
    with _disk_errors(folder):
        parts = _write_layers(folder, (*layers, *extra), spare)
        size = scratch.stat().st_size
        _check_size(size + sum(cache.stat().st_size for cache in caches))
        copy_sparse(scratch, folder / _SCRATCH)
        with (folder / "changes").open("wb") as changes:
            changes.truncate(CHANGES_SIZE)
        writable = [Extent(_SCRATCH, size), Extent("changes", CHANGES_SIZE)]
        for number, cache in enumerate(caches):
            (folder / f"cache-{number}").symlink_to(cache.absolute())
            writable.append(Extent(f"cache-{number}", cache.stat().st_size))
        (folder / "writable.vmdk").write_text(vmdk_descriptor(writable))
    caches_map = lay_out([extent.length for extent in writable])[2:]
    known, others_known = parts[: len(layers)], parts[len(layers) : len(parts) - spare]
    where = DiskMap(known, others_known, caches_map)
    spares = parts[len(parts) - spare :]
    return Disks("layers.vmdk" if parts else None, "writable.vmdk", where, folder / "changes", spares)


def _check_size(size: int) -> None:
    most = DISK_SIZE - CHANGES_SIZE
    if size > most:
        raise HostError(
            f"the step's disk and its caches have {size >> 30} GiB together; a microVM takes {most >> 30}",
            code="disks-too-large",
            hint="give it less with MACHINE disk=, or new caches less with MBUILD_CACHE_MOUNT_BYTES",
        )


def _write_layers(folder: Path, layers: Sequence[Path], spare: int) -> tuple[Place, ...]:
    if not layers and not spare:
        return ()
    parts = []
    (folder / _LEAD).write_bytes(b"\0" * LEAD)
    for number, layer in enumerate(layers):
        (folder / str(number)).symlink_to(layer.absolute())
        parts.append(Extent(str(number), _whole_sectors(layer)))
    for number in range(spare):
        with (folder / f"spare-{number}").open("wb") as file:
            file.truncate(SPARE_SIZE)
        parts.append(Extent(f"spare-{number}", SPARE_SIZE))
    places, extents = arrange(parts)
    (folder / "layers.vmdk").write_text(vmdk_descriptor(extents))
    return places


def arrange(parts: Sequence[Extent]) -> tuple[tuple[Place, ...], list[Extent]]:
    """Where layers come to lie: one in each slot, as long as there are slots, and what is in none behind them. Also
    gives the disk: what is read behind a file's end is zeros."""
    slotted = [number for number, part in enumerate(parts) if part.length <= SLOT][:SLOTS]
    behind = [number for number in range(len(parts)) if number not in slotted]
    extents = [Extent(_LEAD, LEAD), *(Extent(parts[number].name, SLOT) for number in slotted)]
    if behind:
        extents += [Extent(_LEAD, SLOT)] * (SLOTS - len(slotted))
        extents += [parts[number] for number in behind]
    regions = [Region(LEAD + slot * SLOT, parts[number].length) for slot, number in enumerate(slotted)]
    regions_behind = lay_out([parts[number].length for number in behind], SLOTS_END)
    places = {number: Place(region, n) for n, (number, region) in enumerate(zip(slotted, regions, strict=True), 1)}
    for n, (number, region) in enumerate(zip(behind, regions_behind, strict=True), SLOTS + 1):
        places[number] = Place(region, n)
    return tuple(places[number] for number in range(len(parts))), extents


def _whole_sectors(layer: Path) -> int:
    """The length of a layer's disk in bytes."""
    try:
        size = layer.stat().st_size
    except FileNotFoundError as error:
        raise HostError(
            f"the layer {layer} is gone", code="layer-missing", hint="build again with --no-cache"
        ) from error
    if size % SECTOR:
        raise HostError(
            f"the layer {layer} is no whole number of {SECTOR}-byte sectors",
            code="layer-cut",
            hint="build again with --no-cache",
        )
    return size


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"the microVM's disks cannot be made in {folder}: {error.strerror}",
            code="disk-unusable",
            hint="free space there, or choose another folder with --cache-dir",
        ) from error


def scratch_image(folder: Path, size: int) -> Path:
    """An empty file system of `size` bytes, made once and kept in `folder`; never written to.

    Raises HostError: `program-missing` or `program-failed` for mke2fs.
    """
    size -= size % (1 << 20)
    image = folder / f"scratch-{_SCRATCH_VERSION}-{size >> 20}M.ext4"
    if image.exists():
        return image
    folder.mkdir(parents=True, exist_ok=True)
    # Threads and processes may do so at once: what each makes is the same, and the last to be renamed stays.
    made = folder / f".{image.name}.{os.urandom(6).hex()}"
    # The identifiers are fixed so that a folder lists in the same order in every step.
    same = "6d626c64-0000-4000-8000-736372617463"
    argv = [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-I", "256", "-i", "16384", "-U", same),
        *("-O", "^has_journal,^resize_inode,^metadata_csum,uninit_bg"),
        *("-E", f"lazy_itable_init=1,nodiscard,hash_seed={same},root_owner=0:0"),
        *(str(made), f"{size >> 20}M"),
    ]
    try:
        process.run(argv, timeout=60, hint=_HINT)
        made.rename(image)
    finally:
        made.unlink(missing_ok=True)
    return image


def clone(source: Path, target: Path) -> None:
    """Copy a file, its blocks shared where the file system can do that. Raises OSError."""
    with source.open("rb") as read, target.open("wb") as written:
        try:
            fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS):
                raise
    copy_sparse(source, target)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, its holes left out. Raises OSError."""
    with target.open("wb") as written:
        written.truncate(source.stat().st_size)
    copy_into(source, target)


def copy_into(source: Path, target: Path) -> None:
    """Copy a file over the start of another, which has only zeros there. Raises OSError."""
    with source.open("rb") as read, target.open("r+b") as written:
        end = os.fstat(read.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(read.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    return
                raise
            stop = os.lseek(read.fileno(), at, os.SEEK_HOLE)
            os.lseek(written.fileno(), at, os.SEEK_SET)
            while at < stop:
                at += os.sendfile(written.fileno(), read.fileno(), at, stop - at)


_PUNCH = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_PIECE = 1 << 16


def dig_holes(path: Path) -> None:
    """Give back the blocks of a file that hold only zeros, where its file system can. Raises OSError."""
    import ctypes  # for whoever makes a template

    libc = ctypes.CDLL(None, use_errno=True)
    zeros = bytes(_PIECE)
    with path.open("r+b") as file:
        end = os.fstat(file.fileno()).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            at -= at % _PIECE
            if os.pread(file.fileno(), _PIECE, at) == zeros and libc.fallocate(
                file.fileno(), _PUNCH, ctypes.c_int64(at), ctypes.c_int64(_PIECE)
            ):
                return  # not every file system can; the file is only larger then
            at += _PIECE
