"""For tests of outputs: layers made with Python's own tar writer, and what other programs read of an output."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

TIME = 315_619_200


def member(
    name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    """An entry of a layer."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.mtime = kind, len(data), TIME
    entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(entry, field, value)
    return entry, data


def file(name: str, data: bytes = b"content", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A file."""
    return member(name, data=data, **fields)


def folder(name: str, mode: int = 0o755, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A directory."""
    return member(name, tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic link."""
    return member(name, tarfile.SYMTYPE, linkname=target, mode=0o777)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A hard link."""
    return member(name, tarfile.LNKTYPE, linkname=target)


def device(name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """A device."""
    return member(name, kind, devmajor=major, devminor=minor, mode=0o666)


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A plain tar of them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in members:
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


CAPABILITY = "\x01\x00\x00\x02\x00\x20" + "\x00" * 14
"""cap_net_raw, as the kernel keeps it (struct vfs_cap_data, revision 2)."""

RICH = layer(
    folder("etc"),
    file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\n"),
    folder("home", uid=1000, gid=1001, mode=0o750),
    file('home/a b"c', b"quoted", uid=1000, gid=1001, mode=0o600),
    file("home/été", b"accents", mtime=1_700_000_000),
    file("home/<2>", b"like an inode's number"),
    symlink("home/link", "../etc/passwd"),
    symlink("home/far", "/" + "x" * 90),
    folder("bin", mode=0o555),
    file("bin/su", b"set-id", mode=0o4755),
    hard_link("bin/zu", "bin/su"),
    file("bin/large", bytes(range(256)) * 8192, uid=70_000, gid=80_000),
    file("bin/empty", b""),
    file(
        "bin/cap",
        b"capable",
        pax_headers={"SCHILY.xattr.security.capability": CAPABILITY, "SCHILY.xattr.user.note": "n"},
    ),
    folder("dev"),
    device("dev/null", 1, 3),
    device("dev/loop0", 7, 0, tarfile.BLKTYPE),
    member("dev/pipe", tarfile.FIFOTYPE),
    folder("tmp", mode=0o1777),
)
"""A layer with one of everything."""

Told = Mapping[str, tuple[object, ...]]


def tell(data: bytes) -> Told:
    """What a tar holds: path to kind, mode, owner, time, link or content, and device. A hard link is its file."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for entry in tar:
            opened = tar.extractfile(entry) if entry.isreg() else None
            content: object = opened.read() if opened else entry.linkname
            numbers = (entry.devmajor, entry.devminor) if entry.isdev() and not entry.isfifo() else (0, 0)
            name = entry.name.removeprefix("./").strip("/")
            mode = 0o777 if entry.issym() else entry.mode
            found[name] = (entry.type, mode, entry.uid, entry.gid, int(entry.mtime), content, numbers)
    found.pop("", None)
    found.pop(".", None)
    return {path: found[str(told[5])] if told[0] == tarfile.LNKTYPE else told for path, told in found.items()}


def run(*argv: object, cwd: Path | None = None) -> bytes:
    """A program's standard output; it must do well."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}
    done = subprocess.run([str(word) for word in argv], capture_output=True, timeout=120, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def skopeo(*arguments: object) -> bytes:
    """skopeo, whatever the machine's policy is."""
    return run("skopeo", "--insecure-policy", *arguments)
