"""What a command finds mounted in its root beside the image: RUN --mount, in the guest's terms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from engine.vm.socketmount import SocketMount
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class BindMount:
    """A file or folder of other layers."""

    target: str
    """Absolute; made if it is missing, and not left in the layer then. Its links are followed inside the root."""
    disks: tuple[Path, ...]
    """Squashfs files, lowest layer first; none for an empty folder."""
    source: str = "/"
    """Absolute, inside those layers."""
    is_file: bool = False
    """What the source is, and so what the target is to be."""
    writable: bool = False
    """What is written there is thrown away."""


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A folder that outlives the step, on an ext4 disk of its own. Mounts of one disk show one folder."""

    target: str
    disk: Path
    """Written to in place; whole again when the result says that it was released."""
    read_only: bool = False
    is_new: bool = False
    """Whether the disk is still empty; then what follows counts."""
    seed: tuple[Path, ...] = ()
    """Layers whose files the new cache begins with."""
    seed_source: str = "/"
    """The folder among them."""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class TmpfsMount:
    """A folder in memory, gone with the step."""

    target: str
    size: int | None = None
    """Bytes; None for half of the memory."""
    mode: int | None = None
    """None for 1777."""
    read_only: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class SecretFile:
    """A file in memory that the step can read and not change."""

    target: str
    content: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


GuestMount = BindMount | CacheMount | TmpfsMount | SecretFile | SocketMount


def sockets_of(mounts: Iterable[GuestMount]) -> tuple[SocketMount, ...]:
    """The sockets that lead to this machine; the agent knows each by its place here."""
    return tuple(mount for mount in mounts if isinstance(mount, SocketMount))


def layer_disks(root: Sequence[Path], mounts: Iterable[GuestMount]) -> tuple[Path, ...]:
    """The layers that mounts need and the root does not have, each once."""
    needed: dict[Path, None] = {}
    for mount in mounts:
        if isinstance(mount, BindMount):
            needed.update(dict.fromkeys(mount.disks))
        elif isinstance(mount, CacheMount) and mount.is_new:
            needed.update(dict.fromkeys(mount.seed))
    return tuple(disk for disk in needed if disk not in root)


def cache_disks(mounts: Iterable[GuestMount]) -> tuple[Path, ...]:
    """The disks of the caches, each once."""
    return tuple(dict.fromkeys(mount.disk for mount in mounts if isinstance(mount, CacheMount)))


def by_depth(mounts: Iterable[GuestMount]) -> list[GuestMount]:
    """In the order of mounting: what lies deeper later; of the same depth as they were given."""
    return sorted(mounts, key=lambda mount: len([part for part in mount.target.split("/") if part]))
