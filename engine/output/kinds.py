"""-o: what a build writes, and where."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from engine.output.annotations import NO_ANNOTATIONS, Annotations
from engine.output.compress import DEFAULT, Compression
from machinefile.values import dataclass

STDOUT = Path("-")


class OutputType(Enum):
    """The kinds of output that exist."""

    OCI = "oci"
    """An OCI layout: a folder, or a tar of one."""
    DOCKER = "docker"
    """A tar for `docker load`."""
    IMAGE = "image"
    """The image in the store, or pushed to a registry."""
    LOCAL = "local"
    """The files of the image in a folder."""
    TAR = "tar"
    """The files of the image as a tar."""
    DISK = "disk"
    """The files of the image as a file system image."""
    MACHINE = "machine"
    """The machine that the image starts as, in a folder."""

    @property
    def is_image(self) -> bool:
        """Whether it is an image with layers, not only its files."""
        return self in (OutputType.OCI, OutputType.DOCKER, OutputType.IMAGE)

    @property
    def holds_several(self) -> bool:
        """Whether it can hold images for several platforms."""
        return self not in (OutputType.DOCKER, OutputType.DISK, OutputType.MACHINE)


class DiskFormat(Enum):
    """File systems that `disk` makes."""

    SQUASHFS = "squashfs"
    EXT4 = "ext4"


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One -o."""

    type: OutputType
    destination: Path = STDOUT
    """STDOUT (`-`) for standard output, and for `image`, which has none."""
    tar: bool = False
    """OCI: one tar file in place of a folder."""
    compression: Compression = DEFAULT
    """Of the layers that this build made; of all with `force_compression`."""
    force_compression: bool = False
    names: tuple[str, ...] = ()
    """`name=`: names of the image beside those of -t, canonical."""
    push: bool = False
    """IMAGE: send it to the registries of its names."""
    annotations: Annotations = NO_ANNOTATIONS
    """Beside the build's own."""
    oci_media_types: bool = True
    """False for Docker's media types, for registries that know no others."""
    disk_format: DiskFormat = DiskFormat.SQUASHFS
    disk_size: int = 0
    """Bytes of an ext4 disk; 0 for as many as its content needs."""

    @property
    def to_stdout(self) -> bool:
        """Whether it goes to standard output, which then must get nothing else."""
        return self.destination == STDOUT and self.type is not OutputType.IMAGE

    @property
    def is_folder(self) -> bool:
        """Whether the destination is a folder, which may hold other things already."""
        return self.type in (OutputType.LOCAL, OutputType.MACHINE) or (self.type is OutputType.OCI and not self.tar)

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return "standard output" if self.to_stdout else str(self.destination)
