"""For tests that run microVMs: layers made on the spot, commands run, change streams read."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from engine.vm.execution import Ending, Execution, Identity, Sandbox
from engine.vm.qemu import find_qemu
from engine.vm.sandbox import QemuSandbox
from machinefile.errors import HostError
from machinefile.steps import MachineShape, NetworkMode

SHAPE = MachineShape(cpus=2, memory=512 << 20, disk=256 << 20)
"""What the tests' machines get: one template for all of them."""
BUSYBOX = Path("/bin/busybox")


def template_folder(factory: pytest.TempPathFactory) -> Path:
    """The microVMs' part of all stores: one for each process that runs tests, so that what it leaves running there is
    its own. The templates are the same ones for all processes: those in $MBUILD_TEST_VM_DIR, or in a folder of the run.
    """
    named = os.environ.get("MBUILD_TEST_VM_DIR")
    own, is_worker = factory.getbasetemp(), "PYTEST_XDIST_WORKER" in os.environ
    folder = Path(named) if named else (own.parent if is_worker else own) / "templates"
    templates = folder / "templates"
    templates.mkdir(parents=True, exist_ok=True)
    if not is_worker:
        return folder
    worker = own / "vm"
    worker.mkdir(exist_ok=True)
    if not (worker / "templates").is_symlink():
        (worker / "templates").symlink_to(templates.resolve())
    return worker


class LayerBuilder:
    """Builds a layer as squashfs, in the guest's terms: whiteouts are devices, opaque folders have an attribute."""

    def __init__(self) -> None:
        self._raw = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._raw, mode="w", format=tarfile.PAX_FORMAT)

    def add(
        self,
        path: str,
        kind: bytes = tarfile.REGTYPE,
        content: bytes = b"",
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        link: str = "",
        device: tuple[int, int] = (0, 0),
        xattrs: dict[str, str] | None = None,
    ) -> LayerBuilder:
        """One more entry."""
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
        entry.uid, entry.gid = owner
        entry.devmajor, entry.devminor = device
        entry.mtime = 1_000_000_000
        entry.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in (xattrs or {}).items()}
        self._tar.addfile(entry, io.BytesIO(content))
        return self

    def folder(self, path: str, mode: int = 0o755, opaque: bool = False) -> LayerBuilder:
        """A folder; an opaque one hides what the layers below have in it."""
        return self.add(path, tarfile.DIRTYPE, mode=mode, xattrs={"trusted.overlay.opaque": "y"} if opaque else None)

    def whiteout(self, path: str) -> LayerBuilder:
        """Removes what the layers below have there."""
        return self.add(path, tarfile.CHRTYPE)

    def write(self, target: Path) -> Path:
        """The layer as a squashfs file."""
        self._tar.close()
        subprocess.run(
            ["tar2sqfs", "-q", "-f", "-c", "lz4", str(target)], input=self._raw.getvalue(), check=True, timeout=60
        )
        return target


def busybox_layer(target: Path) -> Path:
    """A root with busybox, its applets, /etc/passwd and /tmp; no /proc, /sys, /dev and no /etc/hosts."""
    builder = LayerBuilder()
    for name in ("bin", "etc", "tmp"):
        builder.folder(name, 0o1777 if name == "tmp" else 0o755)
    builder.add("etc/passwd", content=b"root:x:0:0:root:/:/bin/sh\n")
    builder.add("bin/busybox", content=BUSYBOX.read_bytes(), mode=0o755)
    listed = subprocess.run([BUSYBOX, "--list"], check=True, timeout=20, stdout=subprocess.PIPE).stdout
    for applet in listed.decode().split():
        if applet != "busybox":
            builder.add(f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
    return builder.write(target)


@dataclass(frozen=True)
class Change:
    """A record of a change stream, as the tests read it."""

    kind: int
    mode: int
    owner: tuple[int, int]
    device: tuple[int, int]
    link: str
    xattrs: dict[str, bytes]
    content: bytes
    pieces: list[tuple[int, int]] = field(default_factory=list)
    """Where on the scratch disk it was left, and lengths."""


def parse_changes(stream: bytes, scratch: BinaryIO | None = None) -> dict[str, Change]:
    """A change stream by path, checked for its frame: magic, order, padding, end. Files that were left on the scratch
    disk are read from there."""
    assert stream[:8] == b"MBCHG\0\0\1"
    at, found = 8, dict[str, Change]()
    while True:
        head = struct.unpack_from("<IBBHIIIIIQqIIIQ", stream, at)
        magic, kind, _, xattr_count, mode, uid, gid, major, minor, size, _, _, path_len, link_len, _ = head
        assert magic == 0x4543424D
        at += 64
        if kind == 255:
            assert size == len(found)
            return found
        path, link = stream[at : at + path_len].decode(), stream[at + path_len : at + path_len + link_len].decode()
        at += path_len + link_len
        xattrs = {}
        for _ in range(xattr_count):
            name_len, value_len = struct.unpack_from("<HI", stream, at)
            name = stream[at + 6 : at + 6 + name_len].decode()
            xattrs[name] = stream[at + 6 + name_len : at + 6 + name_len + value_len]
            at += 6 + name_len + value_len
        pieces = []
        if kind == 9:
            (count,) = struct.unpack_from("<I", stream, at)
            pieces = [struct.unpack_from("<QQ", stream, at + 4 + 16 * number) for number in range(count)]
            at += 4 + 16 * count
        at += -at % 512
        content = stream[at : at + size] if kind == 1 else b""
        at += len(content) + -len(content) % 512
        if kind == 9:
            assert scratch is not None
            content = b"".join(
                bytes(length) if where == (1 << 64) - 1 else os.pread(scratch.fileno(), length, where)
                for where, length in pieces
            )
            assert len(content) == size
        assert path not in found
        if path:
            assert path.rpartition("/")[0] in found, "a folder comes before what is in it"
        found[path] = Change(1 if kind == 9 else kind, mode, (uid, gid), (major, minor), link, xattrs, content, pieces)


def read_stream(changes: io.BufferedIOBase | object) -> bytes:
    """All of a change stream: up to where only a hole follows on its disk."""
    descriptor = changes.fileno()  # type: ignore[attr-defined]
    parts, at = [], 0
    while True:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            return b"".join(parts) + b"\0" * 512
        parts.append(b"\0" * (start - at))
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        parts.append(os.pread(descriptor, at - start, start))


@dataclass
class Ran:
    """What came of a command."""

    ending: Ending
    code: int
    out: bytes
    err: bytes
    changes: dict[str, Change] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Its standard output."""
        return self.out.decode()


@dataclass
class Runner:
    """Runs shell scripts in microVMs over the busybox layer."""

    sandbox: Sandbox
    base: Path

    def __call__(self, script: str | Sequence[str], layers: Sequence[Path] = (), **options: object) -> Ran:
        """Run a script, or an argv, to its end; `options` are those of Execution."""
        written: dict[int, list[bytes]] = {1: [], 2: []}
        execution = self.execution(script, layers, **options)
        with self.sandbox.execute(execution, lambda n, data: written[n].append(data), threading.Event()) as result:
            changes = parse_changes(read_stream(result.changes), result.scratch) if result.changes else {}
        return Ran(result.ending, result.code, b"".join(written[1]), b"".join(written[2]), changes)

    def execution(self, script: str | Sequence[str], layers: Sequence[Path] = (), **options: object) -> Execution:
        """The same, not run."""
        argv = ("/bin/sh", "-c", script) if isinstance(script, str) else tuple(script)
        settings = {"environment": (("PATH", "/bin"),), "shape": SHAPE, **options}
        return Execution(disks=(self.base, *layers), argv=argv, **settings)  # type: ignore[arg-type]


def processes_in(folder: Path) -> Iterator[int]:
    """The processes whose working directory is in a folder: the QEMUs of its machines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                where = os.readlink(entry / "cwd")
            except OSError:
                continue
            if where.startswith(str(folder)):
                yield int(entry.name)


def make_sandbox(vm_dir: Path) -> QemuSandbox:
    """The real thing. Fails the test where this machine lacks what it needs."""
    try:
        find_qemu()
        sandbox = QemuSandbox(vm_dir)
        sandbox.hypervisor.kernel  # noqa: B018 - raises when there is none
    except HostError as error:
        pytest.fail(f"{error.message}: run scripts/setup")
    return sandbox


__all__ = ["Identity", "NetworkMode", "Runner", "busybox_layer", "make_sandbox", "processes_in"]
