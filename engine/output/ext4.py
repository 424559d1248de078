"""-o type=disk,format=ext4: an ext4 file system with the image's files, owners and devices, made by an ordinary user.

`mke2fs` makes it empty, `debugfs` fills it from a script (both e2fsprogs, checked with 1.47): `mke2fs -d` would take
owners from files of the host, and the order of its directories. UUID, hash seed and all times are fixed, so the
same image gives the same bytes. Contents pass through numbered files in a scratch folder.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from engine import process
from engine.layers.compression import CHUNK
from engine.layers.content import LayerFiles
from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.layers.flatten import Merged
from engine.layers.names import encode, parent_of
from machinefile.errors import HostError, UsageError
from machinefile.values import dataclass

_BLOCK = 4096
_MIB = 1 << 20
_INODE = 256
_TIMEOUT = 3600.0
_MAX_LINE = 8000
"""debugfs reads its script in lines of at most 8191 bytes."""
_MAX_TIME = (1 << 31) - 1
_XATTRS = ("user.", "security.", "trusted.", "system.posix_acl_")
_MAX_MKNOD = 65535
"""What debugfs takes."""
_LOST_FOUND = "lost+found"
_HINT = "they are in the package e2fsprogs"
_KINDS = {
    EntryType.FILE: 0o100000,
    EntryType.DIRECTORY: 0o040000,
    EntryType.SYMLINK: 0o120000,
    EntryType.CHARACTER: 0o020000,
    EntryType.BLOCK: 0o060000,
    EntryType.FIFO: 0o010000,
}


def make_ext4(merged: Sequence[Merged], files: LayerFiles, destination: Path, scratch: Path, size: int = 0) -> None:
    """Make the file system at `destination`, where nothing must be. `scratch` is an empty folder for the contents.

    `size` in bytes, 0 for what the content needs. Raises HostError: `program-missing`, `disk-failed`, `disk-full`;
    UsageError: `disk-too-small`, `disk-name` for a path that no script can name.
    """
    script = _Script()
    root = next((one.entry for one in merged if not one.entry.path), None)
    entries = [one.entry for one in merged if one.entry.path]
    for entry in entries:
        script.add(entry)
    script.finish(root)
    needed = _needed(entries)
    if size and size < needed.content:
        raise _too_small(size)
    sums = _extract(merged, files, script, scratch)
    (scratch / "script").write_bytes(b"".join(script.lines))
    _make_empty(destination, size or needed.total, needed.inodes, _identity(script, sums))
    _fill(destination, scratch, size or needed.total)


@dataclass(frozen=True, slots=True)
class _Needed:
    content: int
    inodes: int

    @property
    def total(self) -> int:
        """Bytes with room for what ext4 needs itself, its journal among it, in whole MiB: the file is sparse."""
        whole = (self.content + self.inodes * _INODE) * 9 // 8 + 64 * _MIB
        return -(-whole // _MIB) * _MIB


def _needed(entries: Sequence[Entry]) -> _Needed:
    names = sum(len(entry.path) + 16 for entry in entries)
    blocks = sum(-(-entry.size // _BLOCK) + bool(entry.xattrs) for entry in entries)
    blocks += sum(entry.type in (EntryType.DIRECTORY, EntryType.SYMLINK) for entry in entries)
    return _Needed(blocks * _BLOCK + names, len(entries) * 9 // 8 + 64)


def _identity(script: _Script, sums: Mapping[str, bytes]) -> str:
    """A UUID that is the same for the same content, and another for another."""
    summed = hashlib.sha256(b"".join(script.lines))
    for name in script.contents.values():
        summed.update(sums[name])
    return str(uuid.UUID(bytes=summed.digest()[:16], version=4))


@dataclass
class _Script:
    """Commands for debugfs. Names go in quotes; what cannot stand in a line is refused, never passed on."""

    lines: list[bytes] = field(default_factory=list)
    contents: dict[str, str] = field(default_factory=dict)
    """Path to the scratch file with its content."""
    values: dict[str, bytes] = field(default_factory=dict)
    """Scratch files with values of attributes."""
    _folder: str = ""
    _links: dict[str, int] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """An entry, after the directory that it stands in."""
        folder = parent_of(entry.path)
        if folder != self._folder:
            self._say("cd", "/" + folder)
            self._folder = folder
        name = entry.path.rpartition("/")[2]
        # With `./` before it a name like <12> is not taken for an inode's number.
        here = "./" + name
        match entry.type:
            case EntryType.HARDLINK:
                self._say("ln", "/" + entry.link, here)
                self._links[entry.link] = self._links.get(entry.link, 1) + 1
                return
            case EntryType.FILE:
                self.contents[entry.path] = f"f{len(self.contents)}"
                self._say("write", self.contents[entry.path], here)
            case EntryType.DIRECTORY:
                if entry.path != _LOST_FOUND:
                    self._say("mkdir", here)
            case EntryType.SYMLINK:
                self._say("symlink", here, entry.link)
            case EntryType.CHARACTER | EntryType.BLOCK:
                self._make_device(name, entry)
            case EntryType.FIFO:
                self._say("mknod", name, "p")
        self._describe(here, entry)

    def _make_device(self, name: str, entry: Entry) -> None:
        letter = "c" if entry.type is EntryType.CHARACTER else "b"
        major, minor = entry.device
        if max(major, minor) <= _MAX_MKNOD:
            self._say("mknod", name, letter, str(major), str(minor))
            return
        # As ext4 keeps Linux's large device numbers: in the second block pointer.
        self._say("mknod", name, letter, "0", "0")
        self._say("sif", "./" + name, "block[0]", "0")
        self._say("sif", "./" + name, "block[1]", str((minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12))

    def finish(self, root: Entry | None) -> None:
        """Once all is there: what the root directory is like, and how many names each file has."""
        self._say("cd", "/")
        if root is not None:
            self._describe(".", root)
        for path, count in self._links.items():
            self._say("sif", "/" + path, "links_count", str(count))

    def _describe(self, name: str, entry: Entry) -> None:
        self._say("sif", name, "mode", f"{_KINDS[entry.type] | entry.mode:07o}")
        for number, value in (("uid", entry.uid), ("gid", entry.gid)):
            if value:
                self._say("sif", name, number, str(value))
        if entry.mtime != NORMAL_TIME:
            self._say("sif", name, "mtime", f"@{min(max(int(entry.mtime), 0), _MAX_TIME)}")
        for attribute, content in entry.xattrs:
            if attribute.startswith(_XATTRS):
                file = f"x{len(self.values)}"
                self.values[file] = content
                self._say("ea_set", "-f", file, name, attribute)

    def _say(self, command: str, *arguments: str) -> None:
        quoted = ['"' + argument.replace('"', '""') + '"' for argument in arguments]
        line = encode(" ".join([command, *quoted]))
        if b"\n" in line or b"\r" in line or b"\0" in line or len(line) > _MAX_LINE:
            raise UsageError(
                f"{arguments[-1][:200]!r} cannot be put on an ext4 disk: it is too long, or has a line's end in it",
                code="disk-name",
                hint="remove it in a RUN step, or write type=disk,format=squashfs",
            )
        self.lines.append(line + b"\n")


def _extract(merged: Sequence[Merged], files: LayerFiles, script: _Script, scratch: Path) -> dict[str, bytes]:
    """Write the contents into the scratch folder, and give the digest of each."""
    sums: dict[str, bytes] = {}
    wanted = [one.source for one in merged if one.entry.type is EntryType.FILE]
    names = {
        (one.source.layer, one.source.entry.path): script.contents[one.entry.path]
        for one in merged
        if one.entry.type is EntryType.FILE
    }
    for located, content in files.stream(wanted):
        name = names[located[0].layer, located[0].entry.path]
        summed = hashlib.sha256()
        with open(scratch / name, "xb") as file:
            while chunk := content.read(CHUNK):
                file.write(chunk)
                summed.update(chunk)
        sums[name] = summed.digest()
    for name, value in script.values.items():
        (scratch / name).write_bytes(value)
    return sums


def _make_empty(destination: Path, size: int, inodes: int, identity: str) -> None:
    descriptor = os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.truncate(descriptor, size // _BLOCK * _BLOCK)
    finally:
        os.close(descriptor)
    settings = f"hash_seed={identity},lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    inodes = max(inodes, size >> 14)
    shape = ("-O", _FEATURES, "-b", str(_BLOCK), "-I", str(_INODE), "-N", str(inodes), "-m", "0")
    process.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", *shape, "-U", identity, "-E", settings, str(destination.absolute())],
        timeout=_TIMEOUT,
        hint=_HINT,
        extra_environment=_FIXED,
    )


_FIXED = {"E2FSPROGS_FAKE_TIME": str(NORMAL_TIME), "MKE2FS_CONFIG": "/dev/null", "DEBUGFS_PAGER": "cat"}
"""A configuration of the machine's own could turn other features on."""
_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
"""All of them by name: what another release of mke2fs takes for granted does not show, and Linux 4 can read it."""


def _fill(destination: Path, scratch: Path, size: int) -> None:
    """debugfs exits with 0 whatever happens: what it says on standard error counts."""
    with open(scratch / "errors", "w+b") as errors:
        process.run(
            ["debugfs", "-w", "-f", "script", str(destination.absolute())],
            timeout=_TIMEOUT,
            hint=_HINT,
            cwd=scratch,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            extra_environment=_FIXED,
        )
        errors.seek(0)
        said = list(_complaints(errors.read(1 << 20).decode(errors="replace")))
    if not said:
        return
    if any("allocate" in line or "No free space" in line for line in said):
        raise _too_small(size)
    if any("No space left" in line for line in said):
        raise HostError(f"no space left for {destination}", code="disk-full", hint="free some space there")
    raise HostError(
        f"debugfs failed while filling {destination}: {said[0][:500]}", code="disk-failed", hint="run: mbuild doctor"
    )


def _complaints(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and not line.startswith("debugfs "):
            yield line.strip()


def _too_small(size: int) -> UsageError:
    return UsageError(
        f"the image does not fit on an ext4 disk of {size} bytes",
        code="disk-too-small",
        hint="leave size out, or make it larger",
    )
