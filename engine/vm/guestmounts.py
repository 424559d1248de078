"""RUN --mount in the guest, as rows of commands: beside guest.py, whose folders it shares.

/m/N is what the mount number N binds from, /c/N the cache disk number N (its files are in /c/N/data, away from
lost+found), /s/m/N what is written to a bind mount, /files/sN a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.vm import guest, guestdisks
from engine.vm.execution import Execution
from engine.vm.mounts import (
    BindMount,
    CacheMount,
    GuestMount,
    SecretFile,
    TmpfsMount,
    by_depth,
    cache_disks,
    layer_disks,
    sockets_of,
)
from engine.vm.protocol import Command, Op, command
from engine.vm.socketmount import SocketMount
from machinefile.values import dataclass

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
"""Mount attributes (linux/mount.h); flags of mount(2) have the same numbers."""
_NOATIME = 1024
_AS_IT_IS = (1 << 64) - 1
_CACHE_OPTIONS = "nobarrier,noinit_itable,nodiscard"
DATA = "data"
"""The folder of a cache disk that is the cache."""


def mount_rows(execution: Execution) -> tuple[list[Command], list[int]]:
    """Makes the mounts. Also says which of the commands answer with the paths of stubs that are to be removed."""
    return _Rows(execution).made()


def take_apart(execution: Execution) -> list[Command]:
    """Unmounts the root after the command, and lets go of the caches: then their disks are whole."""
    row = [command(Op.UNMOUNT, "", guest.ROOT, guest.DETACH)]
    caches = cache_disks(execution.mounts)
    return row + [command(Op.RELEASE, f"/c/{number}", _cache_device(number)) for number in range(len(caches))]


def merge_row() -> Command:
    """Brings what the first cache has, and the second has not or has older, into the second."""
    return command(Op.COPY_TREE, f"/c/0/{DATA}", f"/c/1/{DATA}")


def look_at_caches(execution: Execution) -> list[Command]:
    """Asks how full the caches are, while they are mounted."""
    return [command(Op.STATFS, f"/c/{number}") for number in range(len(cache_disks(execution.mounts)))]


def _cache_device(number: int) -> str:
    return f"{guestdisks.WRITABLE_DISK}{guestdisks.FIRST_CACHE_PARTITION + number}"


@dataclass(slots=True)
class _Rows:
    execution: Execution

    def made(self) -> tuple[list[Command], list[int]]:
        row: list[Command] = []
        stubs: list[int] = []
        for number, disk in enumerate(cache_disks(self.execution.mounts)):
            row += self._cache_disk(number, disk)
        for number, mount in enumerate(by_depth(self.execution.mounts)):
            before, after = self._mount(number, mount)
            row += before
            stubs.append(len(row))
            is_file = isinstance(mount, (SecretFile, SocketMount)) or (isinstance(mount, BindMount) and mount.is_file)
            mode = 0o644 if is_file else 0o755
            row.append(command(Op.ENSURE, guest.ROOT, mount.target, int(is_file), mode, 0, 0))
            row += after
        return row, stubs

    def _mount(self, number: int, mount: GuestMount) -> tuple[list[Command], list[Command]]:
        """What is done before and after the target is there."""
        match mount:
            case BindMount():
                attributes = 0 if mount.writable else _RDONLY
                before = self._overlay(f"/m/{number}", mount.disks, number if mount.writable else None)
                return before, [_bind(f"/m/{number}", mount.source, mount.target, attributes)]
            case CacheMount():
                disk = cache_disks(self.execution.mounts).index(mount.disk)
                return [], [_bind("", f"/c/{disk}/{DATA}", mount.target, _RDONLY if mount.read_only else 0)]
            case TmpfsMount():
                options = [f"size={mount.size}"] if mount.size is not None else []
                options += [f"mode={mount.mode:o}"] if mount.mode is not None else []
                flags = _NOSUID | (_RDONLY if mount.read_only else 0)
                data = ",".join(options)
                return [], [command(Op.MOUNT, guest.ROOT, "tmpfs", mount.target, "tmpfs", flags, data)]
            case SocketMount():
                socket = sockets_of(self.execution.mounts).index(mount)
                path = f"/sockets/{socket}"
                make = command(Op.MKDIR, "", "/sockets", 0o755)
                listen = command(Op.LISTEN, socket, path, mount.mode, mount.uid, mount.gid)
                return [make, listen], [command(Op.BIND, path, guest.ROOT, mount.target)]
            case SecretFile():
                path = f"/files/s{number}"
                write = command(Op.WRITE, "", path, mount.mode, mount.uid, mount.gid, mount.content)
                return [write], [_bind("", path, mount.target, _RDONLY | _NOSUID | _NODEV | _NOEXEC)]

    def _overlay(self, at: str, disks: Sequence[Path], upper: int | None) -> list[Command]:
        """The file system of layers at a folder; with `upper` one that can be written to."""
        all_layers = [*self.execution.disks, *layer_disks(self.execution.disks, self.execution.mounts)]
        folders = [f"/l/{all_layers.index(disk) + 1}" for disk in reversed(disks)]
        row = [command(Op.MKDIR, "", at, 0o755)]
        options = f"lowerdir={':'.join([*folders, '/l/0'])}"
        flags = 0
        if upper is not None:
            above = f"{guest.SCRATCH}/m/{upper}"
            row += [command(Op.MKDIR, "", f"{above}/{name}", 0o755) for name in ("u", "w")]
            row += [command(Op.COPY_OWNER, folders[0], f"{above}/u")] if folders else []
            options += f",upperdir={above}/u,workdir={above}/w,volatile"
        elif not folders:
            return row  # a folder of the agent's own, which the mount makes read-only
        else:
            flags = _RDONLY
        return [*row, command(Op.MOUNT, "", "overlay", at, "overlay", flags, f"{options},{guest.OVERLAY_OPTIONS}")]

    def _cache_disk(self, number: int, disk: Path) -> list[Command]:
        row = [
            command(Op.MKDIR, "", f"/c/{number}", 0o755),
            command(Op.MOUNT, "", _cache_device(number), f"/c/{number}", "ext4", _NOATIME, _CACHE_OPTIONS),
            command(Op.MKDIR, "", f"/c/{number}/{DATA}", 0o755),
        ]
        mounts = (mount for mount in self.execution.mounts if isinstance(mount, CacheMount))
        mount = next(mount for mount in mounts if mount.disk == disk)
        if not mount.is_new:
            return row
        if mount.seed:
            at = f"/m/c{number}"
            row += self._overlay(at, mount.seed, None)
            source = at + mount.seed_source.rstrip("/")
            row.append(command(Op.COPY_TREE, source, f"/c/{number}/{DATA}"))
            row.append(command(Op.COPY_OWNER, source, f"/c/{number}/{DATA}"))
        numbers = [_AS_IT_IS if value is None else value for value in (mount.mode, mount.uid, mount.gid)]
        return [*row, command(Op.OWN, "", f"/c/{number}/{DATA}", *numbers)]


def _bind(origin: str, source: str, target: str, attributes: int) -> Command:
    return command(Op.BIND_FROM, origin, source, guest.ROOT, target, attributes)
