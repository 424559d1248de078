"""The microVM's first file system: the agent and the kernel's modules, as a cpio archive.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst, "newc".
"""

from __future__ import annotations

from engine.vm.kernel import BOOT_MODULES, GuestKernel, module_bytes, module_name

MODULE_FOLDER = "/modules"


def module_path(name: str) -> str:
    """Where the guest has a module that is loaded on the host's command."""
    return f"{MODULE_FOLDER}/{name}.ko"


def build_initramfs(kernel: GuestKernel, agent: bytes) -> bytes:
    """The archive; the same bytes for the same kernel and agent."""
    archive = bytearray()
    number = 0

    def add(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        nonlocal number
        number += 1
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
        archive.extend(b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0")
        archive.extend(b"\0" * (-len(archive) % 4))
        archive.extend(content)
        archive.extend(b"\0" * (-len(archive) % 4))

    add("dev", 0o040755)
    add("dev/console", 0o020600, device=(5, 1))
    add("boot-modules", 0o040755)
    add(MODULE_FOLDER[1:], 0o040755)
    add("init", 0o100755, agent)
    booted = 0
    for path in kernel.modules:
        name = module_name(path)
        if name in BOOT_MODULES:
            add(f"boot-modules/{booted}.ko", 0o100644, module_bytes(path))
            booted += 1
        else:
            add(module_path(name)[1:], 0o100644, module_bytes(path))
    add("TRAILER!!!", 0)
    return bytes(archive)
