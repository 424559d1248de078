"""Small bases for tests, written without mbuild's own code: a bug there must not hide behind itself."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

BUSYBOX = Path("/bin/busybox")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\n"
GROUP = "root:x:0:\nada:x:1001:\nwheel:x:10:root,ada\n"


def _add(tar: tarfile.TarFile, path: str, content: bytes = b"", mode: int = 0o644, **fields: object) -> None:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.size = mode, len(content)
    for name, value in fields.items():
        setattr(entry, name, value)
    tar.addfile(entry, io.BytesIO(content))


def busybox_tar() -> bytes:
    """A root with busybox and its applets, users, /tmp and /root."""
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True, timeout=60).stdout
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("home", 0o755)):
            _add(tar, path, mode=mode, type=tarfile.DIRTYPE)
        _add(tar, "home/ada", mode=0o755, type=tarfile.DIRTYPE, uid=1000, gid=1001)
        _add(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in applets.split():
            if applet != "busybox":
                _add(tar, f"bin/{applet}", mode=0o777, type=tarfile.SYMTYPE, linkname="busybox")
        _add(tar, "etc/passwd", PASSWD.encode())
        _add(tar, "etc/group", GROUP.encode())
    return out.getvalue()


def write_busybox_layout(folder: Path, tag: str = "latest") -> None:
    """An OCI layout with one image of one gzip layer."""
    _write_layout(folder, busybox_tar(), tag)


def blobs_of(folder: Path) -> Callable[[bytes, str], dict[str, Any]]:
    """Begin an OCI layout; gives what puts a blob into it, and returns its descriptor."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    return put


def _write_layout(folder: Path, tar: bytes, tag: str) -> None:
    put = blobs_of(folder)
    layer = put(gzip.compress(tar, mtime=0), "layer.v1.tar+gzip")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
        "history": [{"created_by": "busybox"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer],
    }
    entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def write_layout_for_platforms(folder: Path, architectures: tuple[str, ...], tag: str = "latest") -> None:
    """An OCI layout with an index of one small image an architecture: no programs, a file `arch` that names it."""
    put = blobs_of(folder)
    entries = []
    for architecture in architectures:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "arch", architecture.encode())
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(out.getvalue()).hexdigest()}"]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": put(json.dumps(config).encode(), "config.v1+json"),
            "layers": [put(gzip.compress(out.getvalue(), mtime=0), "layer.v1.tar+gzip")],
        }
        entry = put(json.dumps(manifest).encode(), "manifest.v1+json")
        entries.append(entry | {"platform": {"architecture": architecture, "os": "linux"}})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    top = put(json.dumps(index).encode(), "index.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def write_python_layout(folder: Path, tag: str = "latest") -> None:
    """As `write_busybox_layout`, with this Python and of its library what it starts with."""
    program = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    listed = "import sys; print(*(m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)))"
    argv = [program, "-I", "-B", "-c", "import encodings.ascii, os\n" + listed]
    modules = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    libraries = re.findall(r"(?:=> |^\s*)(/\S+) \(0x", _linked(program), re.MULTILINE)
    files = {str(program), *libraries, *(module for module in modules if Path(module).is_file())}
    out = io.BytesIO(busybox_tar())
    with tarfile.open(fileobj=out, mode="a", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(files):
            _add(tar, file[1:], Path(file).read_bytes(), 0o755)
        _add(tar, "bin/python3", mode=0o777, type=tarfile.SYMTYPE, linkname=str(program))
    _write_layout(folder, out.getvalue(), tag)


def _linked(program: Path) -> str:
    return subprocess.run(["ldd", program], capture_output=True, text=True, check=True, timeout=60).stdout
