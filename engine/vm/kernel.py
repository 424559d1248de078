"""The guest's kernel: found where the distribution's package, or scripts/guest-kernel, has put it."""

from __future__ import annotations

import lzma
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from machinefile.errors import HostError
from machinefile.values import dataclass

HINT = "run: sudo apt-get install linux-image-cloud-amd64"

BOOT_MODULES = ("virtio_ring", "virtio", "virtio_mmio", "virtio_console")
"""What the agent needs to reach the host, in the order of loading."""
TEMPLATE_MODULES = ("failover", "net_failover", "virtio_net", "squashfs", "overlay", "virtio_blk")
"""Loaded before the template is frozen."""
MODULES = BOOT_MODULES + TEMPLATE_MODULES
_SUFFIXES = (".ko", ".ko.xz", ".ko.zst")


@dataclass(frozen=True, slots=True)
class GuestKernel:
    """A kernel that boots in a microVM."""

    version: str
    """As uname -r says it: `6.1.0-28-cloud-amd64`."""
    image: Path
    modules: tuple[Path, ...]
    """The files of those MODULES that are not built in, in the order of loading."""


def roots() -> tuple[Path, ...]:
    """The folders looked into: each may hold boot/vmlinuz-VERSION and lib/modules/VERSION. MBUILD_KERNEL_DIR alone
    where it is set: who names a kernel does not mean another one."""
    if named := os.environ.get("MBUILD_KERNEL_DIR"):
        return (Path(named),)
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return (Path(data, "mbuild/kernel"), Path(sys.prefix, "share/mbuild/kernel"), Path("/"))


def find_kernel(folders: tuple[Path, ...] | None = None) -> GuestKernel:
    """The newest usable kernel in the first folder that has one.

    Raises HostError `kernel-missing`; `kernel-unreadable` when the only ones there may not be read.
    """
    searched = roots() if folders is None else folders
    unreadable: Path | None = None
    for root in searched:
        for image in sorted((root / "boot").glob("vmlinuz-*"), key=_newest_first, reverse=True):
            version = image.name.removeprefix("vmlinuz-")
            if root == Path("/") and "cloud" not in version:
                continue  # a desktop's kernel has other drivers built in, and is often readable by root alone
            if not os.access(image, os.R_OK):
                unreadable = image
                continue
            modules = _find_modules(root, version)
            if modules is not None:
                return GuestKernel(version, image, modules)
    if unreadable is not None:
        raise HostError(
            f"the guest kernel {unreadable} may not be read by this user",
            code="kernel-unreadable",
            hint="run: scripts/guest-kernel ~/.local/share/mbuild/kernel",
        )
    where = ", ".join(map(str, searched))
    raise HostError(
        f"there is no guest kernel to start microVMs with (looked into {where})", code="kernel-missing", hint=HINT
    )


def _newest_first(image: Path) -> tuple[tuple[int, str], ...]:
    words: Iterator[str] = (word for word in re.split(r"(\d+)", image.name) if word)
    return tuple((int(word), "") if word.isdigit() else (-1, word) for word in words)


def _find_modules(root: Path, version: str) -> tuple[Path, ...] | None:
    for folder in (root / "lib/modules" / version, root / "usr/lib/modules" / version):
        if not folder.is_dir():
            continue
        wanted = set(MODULES)
        found: dict[str, Path] = {}
        for parent, _, names in os.walk(folder):
            for name in names:
                stem, dot, _ = name.partition(".")
                if stem.replace("-", "_") in wanted and name[len(stem) :] in _SUFFIXES and dot:
                    found[stem.replace("-", "_")] = Path(parent, name)
        builtin = _builtin(folder)
        if wanted <= found.keys() | builtin:
            return tuple(found[name] for name in MODULES if name in found)
    return None


def _builtin(folder: Path) -> frozenset[str]:
    try:
        lines = (folder / "modules.builtin").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(line.rpartition("/")[2].partition(".")[0].replace("-", "_") for line in lines)


def module_name(path: Path) -> str:
    """The name of a module by its file: `virtio_blk`."""
    return path.name.partition(".")[0].replace("-", "_")


def module_bytes(path: Path) -> bytes:
    """A module's file, unpacked: not every kernel can do that itself. Raises HostError `kernel-unreadable`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise HostError(
            f"the guest kernel's module {path} cannot be read: {error.strerror}",
            code="kernel-unreadable",
            hint=HINT,
        ) from error
    if path.suffix == ".xz":
        return lzma.decompress(raw)
    if path.suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    return raw
