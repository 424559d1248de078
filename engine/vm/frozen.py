"""Machines with a program in them: made ready, frozen with all they hold, and restored any number of times.

    FOLDER/ram          the guest's memory, sparse
           state        its devices
           kernel       what it booted from, which a restored machine's hardware must be the same with
           initrd
           cmdline
           disk         what was written to its disk, sparse
           layers       squashfs after squashfs, lowest first, after some zeros; missing where there are none

Frozen are only machines whose processes stand still (the freezer of control groups): a restored one is made to differ
from its siblings before any of its processes runs again.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from engine.vm.accelerator import Accelerator
from engine.vm.guestdisks import LEAD, lay_out
from engine.vm.qemu_argv import MachineSpec
from machinefile.errors import HostError
from machinefile.steps import MachineShape
from machinefile.values import dataclass

MACHINE_ID = "/etc/machine-id"
CHANGES = 1 << 20
"""Bytes after the scratch file system, for a partition that only steps use."""
ENTRIES = ("ram", "state", "kernel", "initrd", "cmdline", "disk", "layers")
"""The files that a machine is."""


class MachineId(Enum):
    """Where a machine's /etc/machine-id is, which each copy gets a fresh one of."""

    NONE = "none"
    ROOT = "root"
    """Among the files of its root."""
    LAID_OVER = "laid-over"
    """In the guest's memory, laid over the image's file: writing it costs no disk."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A machine on disk."""

    folder: Path
    shape: MachineShape
    accelerator: Accelerator
    layers: tuple[int, ...]
    """Their lengths in bytes, lowest first."""
    tag: int
    """Of the agent's SPAWN whose process it holds."""
    machine_id: MachineId

    def parts(self) -> tuple[str, ...]:
        """The names of its files."""
        return ENTRIES if self.layers else tuple(name for name in ENTRIES if name != "layers")

    def unpack_layers(self, folder: Path) -> tuple[Path, ...]:
        """The layers as files of their own in a folder. Raises HostError (`machine-unwritable`)."""
        paths = []
        with disk_errors(folder):
            for number, region in enumerate(lay_out(self.layers, LEAD)):
                paths.append(folder / f"layer-{number}.squashfs")
                with (self.folder / "layers").open("rb") as source, paths[-1].open("wb") as target:
                    copy_range(source, region.start, target, region.length)
        return tuple(paths)

    def spec(self, qemu: str, writable: Path, *, share: bool) -> MachineSpec:
        """Its QEMU process: with `share` one that is being made, else one that is restored. Raises OSError."""
        return MachineSpec(
            qemu=qemu,
            accelerator=self.accelerator,
            cpus=self.shape.cpus,
            memory=self.shape.memory,
            ram=str(self.folder / "ram"),
            share=share,
            kernel=str(self.folder / "kernel"),
            initrd=str(self.folder / "initrd"),
            # A restored machine boots nothing, and what others made is read no more than it must be.
            cmdline=(self.folder / "cmdline").read_text() if share else "",
            qmp_fd=-1,
            agent_fd=-1,
            layers=str(self.folder / "layers") if self.layers else None,
            writable=str(writable),
            raw=True,
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what goes wrong with files that are written to a folder into HostError (`machine-unwritable`)."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"the machine cannot be written to {folder}: {error.strerror or error}",
            code="machine-unwritable",
            hint="free space there, or choose another folder",
        ) from error


def copy_range(source: BinaryIO, start: int, target: BinaryIO, length: int) -> None:
    """Append bytes of a file to another."""
    source.seek(start)
    while length:
        data = source.read(min(length, 1 << 20))
        if not data:
            raise OSError(errno.EIO, "a layer is shorter than it was")
        target.write(data)
        length -= len(data)
