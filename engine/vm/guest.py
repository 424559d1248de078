"""What is done in the guest, as rows of commands for its agent: all policy is here, none in the agent.

The guest's folders, none of which the step can see: /l/N the layers, /s the scratch disk with the overlay's upper
folder u and work folder w, /r the step's root, /b the layers without the step, /dev-root what becomes /dev,
/files what is laid over files of the image, /sockets the sockets that lead to the host.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time
from collections.abc import Sequence

from engine.vm.execution import Execution, GuestFile
from engine.vm.guestclock import set_to
from engine.vm.initramfs import module_path
from engine.vm.kernel import TEMPLATE_MODULES
from engine.vm.network.addresses import GATEWAY, dotted
from engine.vm.network.resolvconf import taken_over
from engine.vm.protocol import Command, Op, Value, command, texts
from machinefile.hosts import HOST_GATEWAY
from machinefile.steps import NetworkMode

ROOT = "/r"
SCRATCH = "/s"
UPPER = "/s/u"
WORK = "/s/w"
BELOW = "/b"
SYSTEM = "/sys-root"
PROCESSES = "/proc-root"
_NOTHING = "/l/none"

_NOSUID, _NODEV, _NOEXEC, _RDONLY, _STRICTATIME = 2, 4, 8, 1, 1 << 24
DETACH = 2
"""Of umount2(2): also what is mounted below, whoever is in it."""
_NEWNS, _NEWIPC, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x20000000, 0x40000000
_NAMESPACES = _NEWNS | _NEWPID | _NEWIPC
_WAITING = 1 << 40
"""Instead of namespaces: those of the process that waits."""
_Mount = tuple[str, str, str, int, str]
"""Source, target, type, flags, data."""

_NOFILE, _NPROC = 7, 6
_UNLIMITED = (1 << 64) - 1
_LIMITS = ((_NOFILE, 1024, 1 << 20), (_NPROC, _UNLIMITED, _UNLIMITED))
"""Open files as systemd hands them down: a soft limit that select() can bear, and a hard one to raise it to."""

_CAPABILITIES = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31))
"""What root has in a container that BuildKit runs: CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP
NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP (include/uapi/linux/capability.h has the numbers)."""

_ALL_CAPABILITIES = (1 << 64) - 1

_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)
_BIND, _REMOUNT = 4096, 32
_IF_THERE = 1 << 40
"""The agent's own flag: what is not there need not be mounted."""
_MASKED_FILES = ("kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug")
_MASKED_FOLDERS = ("acpi", "asound", "scsi")
_MASKED_SYSTEM_FOLDERS = ("/firmware", "/devices/virtual/powercap")
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
"""What a container does not see of the kernel. Source: containerd's default specification, which BuildKit uses."""
RESOLVER = b"nameserver 10.0.2.3\n"
_HOSTS = "127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def prepare(modules: Sequence[str]) -> list[Command]:
    """Done once, before a template is frozen; `modules` are those of the kernel that are not built in."""
    row = [command(Op.LOAD, module_path(name), "") for name in TEMPLATE_MODULES if name in modules]
    row += [
        command(Op.MKDIR, "", path, 0o755)
        for path in ("/l/0", SCRATCH, ROOT, BELOW, "/dev-root", SYSTEM, PROCESSES, "/files")
    ]
    row += _device_folder()
    row += _system_folder()
    row += _settings()
    row += [
        command(Op.LINK_UP, "lo", "127.0.0.1", "255.0.0.0", ""),
        command(Op.LINK_UP, "eth0", "10.0.2.15", "255.255.255.0", "10.0.2.2"),
    ]
    return [*row, _wait()]


def _settings() -> list[Command]:
    """How the kernel works, as far as it can be asked to.

    Without swap, a guest that is short of memory can spend its life reading anew the programs that it has just thrown
    out. It is to kill for memory once it cannot keep the pages of the last second. Source: Linux'
    Documentation/admin-guide/mm/multigen_lru.rst, "Thrashing prevention".

    It need not sort, slow down or count what goes to disks that are files of the host's. Source: Linux'
    Documentation/ABI/stable/sysfs-block.
    """
    quiet = _NOSUID | _NODEV | _NOEXEC
    settings = [("kernel/mm/lru_gen/enabled", b"y"), ("kernel/mm/lru_gen/min_ttl_ms", b"1000")]
    for disk in ("vda", "vdb"):
        for name, value in (("scheduler", b"none"), ("wbt_lat_usec", b"0"), ("iostats", b"0")):
            settings.append((f"block/{disk}/queue/{name}", value))
    writes = [
        command(Op.WRITE, "", f"/sys/{name}", 0o644, 0, 0, value, tolerate=True)
        for name, value in settings  # which not every kernel has
    ]
    return [
        command(Op.MOUNT, "", "sysfs", "/sys", "", _REMOUNT | quiet, ""),
        *writes,
        command(Op.MOUNT, "", "sysfs", "/sys", "", _REMOUNT | _RDONLY | quiet, ""),
    ]


def _device_folder() -> list[Command]:
    """/dev as runc makes it."""
    tmpfs = _NOSUID | _STRICTATIME
    row = [command(Op.MOUNT, "", "tmpfs", "/dev-root", "tmpfs", tmpfs, "mode=755,size=65536k")]
    for name, major, minor in _DEVICES:
        row.append(command(Op.MKNOD, "", f"/dev-root/{name}", stat.S_IFCHR | 0o666, major, minor))
    row += [command(Op.SYMLINK, "", target, f"/dev-root/{name}") for name, target in _DEVICE_LINKS]
    row += [command(Op.MKDIR, "", f"/dev-root/{name}", 0o755) for name in ("pts", "shm", "mqueue")]
    quiet = _NOSUID | _NOEXEC
    pts = "newinstance,ptmxmode=0666,mode=0620,gid=5"
    row.append(command(Op.MOUNT, "", "devpts", "/dev-root/pts", "devpts", quiet, pts))
    shm = "mode=1777,size=65536k"
    row.append(command(Op.MOUNT, "", "shm", "/dev-root/shm", "tmpfs", quiet | _NODEV, shm))
    row.append(command(Op.MOUNT, "", "mqueue", "/dev-root/mqueue", "mqueue", quiet | _NODEV, "", tolerate=True))
    return row


def _system_folder() -> list[Command]:
    """/sys with the cgroups and what hides the kernel's own files, for all but privileged steps."""
    cgroups = f"{SYSTEM}/fs/cgroup"
    quiet = _NOSUID | _NODEV | _NOEXEC
    row = [
        command(Op.BIND, "/sys", "", SYSTEM),
        command(Op.MOUNT, "", "cgroup", cgroups, "cgroup2", quiet, "", tolerate=True),
        # Not when it is mounted: that would make all of cgroup2 read-only, for the agent too.
        command(Op.MOUNT, "", "", cgroups, "", _BIND | _REMOUNT | _RDONLY | quiet, "", tolerate=True),
    ]
    for path in _MASKED_SYSTEM_FOLDERS:
        row.append(command(Op.MOUNT, "", "tmpfs", f"{SYSTEM}{path}", "tmpfs", _RDONLY, "size=0k", tolerate=True))
    return row


def first_seed() -> Command:
    """Seeds the random pool of the machine that is frozen: the first time costs the kernel more than any other."""
    return command(Op.RESEED, seed())


def refresh(seed: bytes, now_ns: int) -> list[Command]:
    """Makes a restored machine differ from its siblings; before anything else in it."""
    return [
        command(Op.RESEED, seed),
        set_to(now_ns),
    ]


def lay_root(layers: int) -> list[Command]:
    """Lays the overlay that is the step's root over that many layers."""
    # The upper folder was made before the template was frozen: one below no layer is to be as old as this moment.
    row = [] if layers else [command(Op.MKDIR, "", _NOTHING, 0o755)]
    row.append(command(Op.COPY_OWNER, f"/l/{layers}" if layers else _NOTHING, UPPER))
    # The scratch disk does not outlive the step: nothing needs to be synchronised (volatile).
    options = f"lowerdir={lower_folders(layers)},upperdir={UPPER},workdir={WORK},{OVERLAY_OPTIONS},volatile"
    row.append(command(Op.MOUNT, "", "overlay", ROOT, "overlay", 0, options))
    return row


OVERLAY_OPTIONS = "redirect_dir=off,metacopy=off,index=off,xino=off"
"""So that a layer means what OCI says: no attributes that only the same kernel understands."""


def lower_folders(count: int) -> str:
    """The overlay's lowerdir for that many layers: topmost first."""
    return ":".join(f"/l/{n}" for n in range(count, 0, -1)) or "/l/0"


def files_of(execution: Execution) -> tuple[GuestFile, ...]:
    """What is laid over the image's files: the step's own, and names for the network where it has none."""
    lines = [
        f"{dotted(GATEWAY) if address == HOST_GATEWAY else address}\t{name}\n" for name, address in execution.hosts
    ]
    hosts = _HOSTS.format(name=execution.hostname) + "".join(lines)
    networked = execution.network is not NetworkMode.NONE
    standard = (
        GuestFile("/etc/resolv.conf", RESOLVER + (taken_over() if networked else b"")),
        GuestFile("/etc/hosts", hosts.encode("utf-8", "surrogateescape")),
    )
    given = {posixpath.normpath(file.path) for file in execution.files}
    return tuple(file for file in standard if file.path not in given) + execution.files


def add_folders() -> list[Command]:
    """Makes the folders that every root has, and that stay in it."""
    return [command(Op.ENSURE, ROOT, path, 0, 0o755, 0, 0) for path in ("/proc", "/sys", "/dev")]


def furnish(execution: Execution) -> tuple[list[Command], list[int]]:
    """Makes the root, which has its folders, a place to run in. Also says which of the commands answer with the paths
    of stubs that are to be removed again."""
    row = [command(Op.HOSTNAME, execution.hostname)]
    row.append(command(Op.BIND, "/dev-root", ROOT, "/dev"))
    row.append(command(Op.BIND, "/sys" if execution.privileged else SYSTEM, ROOT, "/sys"))
    stubs: list[int] = []
    for number, file in enumerate(files_of(execution)):
        stubs.append(len(row))
        row.append(command(Op.ENSURE, ROOT, file.path, 1, 0o644, 0, 0))
        row.append(command(Op.WRITE, "", f"/files/{number}", file.mode, 0, 0, file.content))
        row.append(command(Op.BIND, f"/files/{number}", ROOT, file.path))
    return row, stubs


def enter(execution: Execution) -> Command:
    """Makes the working directory, when all that may cover it is mounted."""
    return command(Op.ENSURE, ROOT, execution.working_dir, 0, 0o755, 0, 0)


def spawn(execution: Execution) -> Command:
    """Starts the step's command, the first process of a PID namespace: what it leaves behind dies with it."""
    if execution.session is None and execution.network is not NetworkMode.NONE and not execution.privileged:
        moved = [(PROCESSES, "/proc", "", 0, "")]
        return Command(Op.SPAWN, _order(execution, ROOT, _WAITING, _ALL_CAPABILITIES, moved))
    namespaces = _NAMESPACES | (_NEWNET if execution.network is NetworkMode.NONE else 0)
    if not execution.privileged:
        return Command(Op.SPAWN, _order(execution, ROOT, namespaces, _CAPABILITIES, _processes("/proc"), _LIMITS))
    quiet = _NOSUID | _NODEV | _NOEXEC
    mounts = [("proc", "/proc", "proc", quiet, ""), ("cgroup", "/sys/fs/cgroup", "cgroup2", quiet | _IF_THERE, "")]
    return Command(Op.SPAWN, _order(execution, ROOT, namespaces, _ALL_CAPABILITIES, mounts, _LIMITS))


def _wait() -> Command:
    """Starts what becomes the step's first process, but for what differs between steps: the kernel's work is done
    then before a template is frozen."""
    nothing = Execution((), ("",), ())
    mounts = _processes(PROCESSES, "/dev-root/null")
    return Command(Op.PREPARE, _order(nothing, "", _NAMESPACES, _CAPABILITIES, mounts, _LIMITS))


def _processes(at: str, null: str = "/dev/null") -> list[_Mount]:
    """/proc at a path, in the process's own namespaces, and over it what hides the kernel's own files."""
    quiet = _NOSUID | _NODEV | _NOEXEC
    mounts = [("proc", at, "proc", quiet, "")]
    for name in _MASKED_FILES:
        mounts.append((null, f"{at}/{name}", "", _BIND | _IF_THERE, ""))
    for name in _MASKED_FOLDERS:
        mounts.append(("tmpfs", f"{at}/{name}", "tmpfs", _RDONLY | _IF_THERE, "size=0k"))
    for name in _READ_ONLY:
        path = f"{at}/{name}"
        mounts.append((path, path, "", _BIND | _IF_THERE, ""))
        mounts.append((path, path, "", _BIND | _REMOUNT | _RDONLY | quiet | _IF_THERE, ""))
    return mounts


def _order(
    execution: Execution,
    root: str,
    namespaces: int,
    capabilities: int,
    mounts: Sequence[_Mount] = (),
    limits: Sequence[tuple[int, int, int]] = (),
) -> tuple[Value, ...]:
    """What the agent is told of a process."""
    identity = execution.identity
    return (
        *(root, namespaces, identity.uid, identity.gid),
        *(len(identity.groups), *identity.groups),
        *(0o022, capabilities),
        execution.working_dir,
        *(len(limits), *(number for limit in limits for number in limit)),
        *(len(mounts), *(value for mount in mounts for value in mount)),
        *texts(execution.argv),
        *texts([f"{name}={value}" for name, value in execution.environment]),
    )


def spawn_beside(execution: Execution) -> Command:
    """Starts a command where, after a JOIN, another one runs: as the same user, in its root and namespaces."""
    return Command(Op.SPAWN, _order(execution, "", 0, _CAPABILITIES, (), _LIMITS))


def individual(hostname: str, mac: bytes, machine_id: str, place: tuple[str, str] | None) -> list[Command]:
    """Makes a machine that was frozen with a program in it differ from its siblings, and lets the program go on.

    `place` is the root and the path of the file that holds the machine id; None where the machine has none.
    """
    row = [command(Op.HELLO), *refresh(seed(), time.time_ns()), command(Op.HOSTNAME, hostname)]
    row.append(command(Op.WRITE, "", HOSTS_FILE, 0o644, 0, 0, _HOSTS.format(name=hostname).encode()))
    row.append(command(Op.SET_MAC, "eth0", mac))
    if place is not None:
        row.append(command(Op.WRITE, *place, 0o444, 0, 0, f"{machine_id}\n".encode()))
    return [*row, command(Op.RESUME)]


HOSTS_FILE = "/files/1"
"""Where `furnish` puts /etc/hosts, for a command that brings no file of its own by that name."""
FIRST_OWN_FILE = "/files/2"
"""The same for the first file that a command brings, unless it is one of those that all have."""


def probe() -> Command:
    """Starts the agent's own program as a process that forks once and exits with 42."""
    values = ("", 0, 0, 0, 0, 0o022, _ALL_CAPABILITIES, "/", 0, 0, *texts(("/init", "probe")), *texts(()))
    return Command(Op.SPAWN, values)


PROBE_STATUS = 42 << 8
"""The wait status that the probe ends with."""


def look() -> list[Command]:
    """Asks, after a failed step, whether the kernel killed for memory, and how full the scratch disk is."""
    return [command(Op.READ, "/proc/vmstat", 1 << 16), command(Op.STATFS, SCRATCH)]


def collect(layers: int, stubs: Sequence[str], device: str) -> list[Command]:
    """Writes the changed files to a device, when the root is unmounted; the last command answers with the length."""
    row = [command(Op.UNSTUB, UPPER, path) for path in reversed(stubs)]
    below = {0: "", 1: "/l/1"}.get(layers, BELOW)
    if below == BELOW:
        options = f"lowerdir={lower_folders(layers)},{OVERLAY_OPTIONS}"
        row.append(command(Op.MOUNT, "", "overlay", BELOW, "overlay", _RDONLY, options))
    row.append(command(Op.CHANGES, UPPER, below, device))
    return row


def seed() -> bytes:
    """Fresh bytes for the guest's random pool."""
    return os.urandom(64)
