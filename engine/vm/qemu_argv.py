"""The command line of QEMU, from a description of the machine: pure, and tested as text."""

from __future__ import annotations

import json

from engine.vm.accelerator import Accelerator
from engine.vm.portforward import PortForward
from engine.vm.protocol import PORT_NAME
from machinefile.values import dataclass

ARGV_VERSION = 2
"""Raise it when what the guest's hardware is changes: templates made before no longer fit."""

DISK_SIZE = 1 << 44
"""Bytes that the guest takes each of its disks for: it looks once, before it is frozen, and what a restored machine is
given is smaller. So it can keep its driver over the restore, which would cost more than all the rest to load anew."""
MAC = "52:54:00:6d:62:01"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One QEMU process. Plain file names are relative to its working directory."""

    qemu: str
    accelerator: Accelerator
    cpus: int
    memory: int
    """Bytes."""
    ram: str
    """The file that is the guest's memory."""
    share: bool
    """Whether what the guest writes goes into that file; else it stays this process's own."""
    kernel: str
    initrd: str
    cmdline: str
    qmp_fd: int
    agent_fd: int
    """Connected stream sockets that QEMU inherits."""
    incoming: bool = False
    """Wait for a machine's state instead of booting."""
    quiet: bool = False
    """Whether the guest, restored, does not say on its network that it is back. It costs it a good part of the time
    until it answers; but who opens connections to it could not find it."""
    layers: str | None = None
    """A vmdk descriptor of the read-only disk, of DISK_SIZE at most; None for a disk of zeros."""
    writable: str | None = None
    """A vmdk descriptor of the disk to write on; None for a disk of zeros."""
    restrict: bool = False
    """Whether the network leads nowhere."""
    wires: tuple[int, int, int] | None = None
    """Connected stream sockets that QEMU inherits: for each frame from the guest, for those among them that may go
    on, and for frames to the guest. None lets everything pass."""
    serial: str = "serial.log"
    ports: tuple[PortForward, ...] = ()
    """Ports of this machine that lead to the guest."""
    raw: bool = False
    """Whether the disks are plain files and no descriptors: QEMU freezes no machine with a vmdk."""


def qemu_argv(spec: MachineSpec) -> list[str]:
    """The argv that starts the machine."""
    ram = {
        "qom-type": "memory-backend-file",
        "id": "ram",
        "size": spec.memory,
        "mem-path": spec.ram,
        "share": spec.share,
    }
    argv = [
        *(spec.qemu, "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-M", _machine(spec)),
        *("-accel", spec.accelerator.option),
        *("-cpu", spec.accelerator.cpu),
        *("-smp", str(spec.cpus)),
        *("-m", f"{spec.memory >> 20}M"),
        *("-object", json.dumps(ram)),
        *_boot(spec),
        *("-chardev", f"file,id=serial,path={spec.serial}"),
        *("-serial", "chardev:serial"),
        *("-chardev", f"socket,id=qmp,fd={spec.qmp_fd}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-chardev", f"socket,id=agent,fd={spec.agent_fd}"),
        *("-device", f"virtserialport,chardev=agent,name={PORT_NAME}"),
        *("-netdev", _network(spec)),
        *("-device", f"virtio-net-device,netdev=net,mac={MAC}"),
        *_wires(spec.wires),
        *("-blockdev", json.dumps(_disk("writable", spec.writable, read_only=False, raw=spec.raw))),
        *("-device", "virtio-blk-device,drive=writable,werror=report,rerror=report"),
        *("-blockdev", json.dumps(_disk("layers", spec.layers, read_only=True, raw=spec.raw))),
        *("-device", "virtio-blk-device,drive=layers,werror=report,rerror=report"),
    ]
    if spec.quiet:
        argv += ["-global", "migration.announce-rounds=0"]
    return [*argv, "-incoming", "defer"] if spec.incoming else argv


def _wires(wires: tuple[int, int, int] | None) -> list[str]:
    if wires is None:
        return []
    argv: list[str] = []
    for name, descriptor in zip(("outward", "onward", "back"), wires, strict=True):
        argv += ["-chardev", f"socket,id={name},fd={descriptor}"]
    # What the guest sends is what the netdev receives.
    argv += ["-object", "filter-redirector,id=leaving,netdev=net,queue=rx,outdev=outward,indev=onward"]
    return [*argv, "-object", "filter-redirector,id=entering,netdev=net,queue=tx,indev=back"]


def _boot(spec: MachineSpec) -> list[str]:
    """What the guest boots. A restored one has: QEMU would read a kernel into memory of its own for nothing."""
    if spec.incoming:
        return []
    return ["-kernel", spec.kernel, "-initrd", spec.initrd, "-append", spec.cmdline]


def _machine(spec: MachineSpec) -> str:
    # KVM has its own clock and may calibrate against the PIT; under TCG on a busy host that hangs.
    timers = "" if spec.accelerator is Accelerator.KVM else ",pit=off,pic=off"
    return "microvm,memory-backend=ram,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,rtc=off" + timers


def _network(spec: MachineSpec) -> str:
    options = ["user", "id=net", "ipv6=off", f"restrict={'on' if spec.restrict else 'off'}"]
    return ",".join([*options, *(port.option for port in spec.ports)])


def _disk(name: str, descriptor: str | None, *, read_only: bool, raw: bool) -> dict[str, object]:
    if descriptor is None:
        return {"driver": "null-co", "node-name": name, "size": DISK_SIZE, "read-zeroes": True, "read-only": read_only}
    return {
        "driver": "raw" if raw else "vmdk",
        "node-name": name,
        "read-only": read_only,
        "cache": {"direct": False, "no-flush": True},
        "file": {"driver": "file", "filename": descriptor},
    }


def kernel_cmdline(accelerator: Accelerator, khz: int) -> str:
    """What the guest's kernel is told; `khz` is the rate of the time stamp counter, used under TCG only."""
    words = [
        "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t",
        "net.ifnames=0 audit=0 apparmor=0 selinux=0",
        # The machine lives for one step and holds one tenant: what protects tenants from one another only costs.
        "mitigations=off init_on_alloc=0 random.trust_cpu=off",
        # Nobody on this network speaks IPv6: an address that is looked for, and routers that are asked for, only take
        # the time of each restored machine.
        "sysctl.net.ipv6.conf.default.dad_transmits=0 sysctl.net.ipv6.conf.default.router_solicitations=0",
        # What is emulated costs by the code that runs for the first time: security modules without a policy, and
        # figures that nobody reads, are passed through at each system call. These two a program may ask for.
        "lsm=landlock,yama psi=0 rcupdate.rcu_expedited=1",
        "rdinit=/init",
    ]
    if accelerator is Accelerator.TCG:
        # Calibrating the counter against a timer hangs on a busy host: it is told instead. HZ is 250.
        words.append(f"tsc=reliable tsc_early_khz={khz} lpj={khz * 4} no_timer_check nowatchdog")
    return " ".join(words)
