"""A machine's two disks in the guest, as rows of commands: beside guest.py, whose folders it shares.

What every step's machine needs of them is done before a template is frozen: the scratch disk is there then, and
mounted; and the other one is cut into slots, whatever will lie in them. A layer in a slot need only be mounted.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.vm import guest
from engine.vm.protocol import Command, Op, command
from machinefile.values import dataclass

LAYERS_DISK = "/dev/vdb"
WRITABLE_DISK = "/dev/vda"
SCRATCH_PARTITION = 1
CHANGES_PARTITION = 2
FIRST_CACHE_PARTITION = 3
CHANGES_DEVICE = f"{WRITABLE_DISK}{CHANGES_PARTITION}"
CHANGES_SIZE = 1 << 40
"""Bytes of the disk that the changed files are written to; sparse, so that it costs what is written."""

LEAD = 4096
"""Bytes of zeros before the first layer: no kernel finds a partition table there, whatever is in a layer."""
SLOT = 1 << 36
"""Bytes of a slot."""
SLOTS = 64
"""How many there are. What is in none gets the partitions behind them, of which the greatest may be 255."""
SLOTS_END = LEAD + SLOTS * SLOT

_RDONLY, _NOATIME = 1, 1024
_SCRATCH_OPTIONS = "nobarrier,noinit_itable,nodiscard"


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a disk, in bytes."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer is on its disk."""

    region: Region
    partition: int
    """Its number: up to SLOTS that of a slot, which is there."""


@dataclass(frozen=True, slots=True)
class DiskMap:
    """Where on the two disks things are."""

    layers: tuple[Place, ...]
    """Lowest first."""
    extra: tuple[Place, ...] = ()
    """Layers of mounts, behind those of the root."""
    caches: tuple[Region, ...] = ()


def lay_out(lengths: Sequence[int], start: int = 0) -> tuple[Region, ...]:
    """Regions of those lengths, one after the other."""
    regions = []
    for length in lengths:
        regions.append(Region(start, length))
        start += length
    return tuple(regions)


def settle(scratch: int) -> list[Command]:
    """Done before a template is frozen whose scratch disk has that many bytes: all that depends on no step."""
    row = [
        command(Op.PARTITION, WRITABLE_DISK, SCRATCH_PARTITION, 0, scratch),
        command(Op.PARTITION, WRITABLE_DISK, CHANGES_PARTITION, scratch, CHANGES_SIZE),
    ]
    for number in range(1, SLOTS + 1):
        row.append(command(Op.PARTITION, LAYERS_DISK, number, LEAD + (number - 1) * SLOT, SLOT))
        row.append(command(Op.MKDIR, "", f"/l/{number}", 0o755))
    device = f"{WRITABLE_DISK}{SCRATCH_PARTITION}"
    row.append(command(Op.MOUNT, "", device, guest.SCRATCH, "ext4", _NOATIME, _SCRATCH_OPTIONS))
    row += [command(Op.MKDIR, "", path, 0o755) for path in (guest.UPPER, guest.WORK)]
    return [*row, command(Op.SYNC)]


def attach(disks: DiskMap) -> list[Command]:
    """Cuts up what is not cut yet, and mounts the layers."""
    row: list[Command] = []
    for n, part in enumerate(disks.caches, FIRST_CACHE_PARTITION):
        row.append(command(Op.PARTITION, WRITABLE_DISK, n, part.start, part.length))
    return row + add_layers((*disks.layers, *disks.extra))


def add_layers(places: Sequence[Place], there: int = 0) -> list[Command]:
    """Mounts layers, besides those that are there."""
    row: list[Command] = []
    for n, place in enumerate(places, there + 1):
        if place.partition > SLOTS:
            part = place.region
            row.append(command(Op.PARTITION, LAYERS_DISK, place.partition, part.start, part.length))
        if n > SLOTS:
            row.append(command(Op.MKDIR, "", f"/l/{n}", 0o755))
        row.append(_mount_layer(place.partition, n))
    return row


def add_packed(parts: Sequence[Region]) -> list[Command]:
    """Mounts layers that lie one behind the other, without slots: these are given up."""
    row = [command(Op.PARTITION, LAYERS_DISK, number, 0, 0) for number in range(1, SLOTS + 1)]
    for n, part in enumerate(parts, 1):
        row.append(command(Op.PARTITION, LAYERS_DISK, n, part.start, part.length))
        row.append(command(Op.MKDIR, "", f"/l/{n}", 0o755))
        row.append(_mount_layer(n, n))
    return row


def _mount_layer(device: int, n: int) -> Command:
    return command(Op.MOUNT, "", f"{LAYERS_DISK}{device}", f"/l/{n}", "squashfs", _RDONLY, "")
