"""The base images of the specs, written with the standard library alone."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

from e2e_bases import blobs_of

BUSYBOX = Path("/bin/busybox")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# No more than are needed: buildah's storage copies the base for every build.
_APPLETS = "ash cat chmod chown echo env false grep id ln ls mkdir mkfifo mknod mv rm rmdir sh sort test touch true"
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/sh\nbob:x:1002:1002::/home/bob:/bin/sh\n"
_GROUP = "root:x:0:\nwheel:x:10:root,ada\nada:x:1001:\nbob:x:1002:\nstaff:x:50:ada\n"
_PLAIN = {"Env": ["PATH=/bin", "LANG=C"], "Cmd": ["/bin/sh"]}
_RICH = {
    "Env": ["PATH=/bin", "LANG=C", "COLOR=red", "EMPTY="],
    "Cmd": ["serve"],
    "Entrypoint": ["/bin/entry"],
    "User": "ada",
    "WorkingDir": "/data",
    "ExposedPorts": {"80/tcp": {}},
    "Labels": {"maker": "nobody", "kept": "yes"},
    "Volumes": {"/old": {}},
    "StopSignal": "SIGINT",
    "OnBuild": ["ENV TRIGGERED=yes", "COPY trigger.txt /trigger/"],
    "Shell": ["/bin/ash", "-ec"],
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 2},
}


def write_plain(folder: Path) -> None:
    """An OCI layout with the tag `latest`: busybox, users, and some things for a COPY to meet."""
    blob = blobs_of(folder)
    tar = _root()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(_configuration(_PLAIN, tar), "config.v1+json"),
        "layers": [blob(gzip.compress(tar, mtime=0), "layer.v1.tar+gzip")],
    }
    entry = blob(_json(manifest), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


def write_rich(archive: Path) -> None:
    """An archive as docker save writes it: the same files, and a configuration with every field, triggers too."""
    tar = _root()
    config = _configuration(_RICH, tar)
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": ["rich:latest"], "Layers": ["one/layer.tar"]}]
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as out:
        for path, content in ((name, config), ("one/layer.tar", tar), ("manifest.json", _json(manifest))):
            _add(out, path, content)


def _configuration(config: dict[str, Any], tar: bytes) -> bytes:
    return _json(
        {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "created": "2000-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest()]},
            "history": [{"created": "2000-01-01T00:00:00Z", "created_by": "by hand"}],
        }
    )


def _root() -> bytes:
    folder, link = tarfile.DIRTYPE, tarfile.SYMTYPE
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("home", 0o755)):
            _add(tar, path, mode=mode, type=folder)
        for path in ("dev", "proc", "sys", "run"):
            _add(tar, path, mode=0o755, type=folder)
        _add(tar, "home/ada", mode=0o750, type=folder, uid=1000, gid=1001)
        _add(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in _APPLETS.split():
            _add(tar, f"bin/{applet}", mode=0o777, type=link, linkname="busybox")
        _add(tar, "etc/passwd", _PASSWD.encode())
        _add(tar, "etc/group", _GROUP.encode())
        for name in ("hosts", "hostname", "resolv.conf"):
            _add(tar, f"etc/{name}")
        _add(tar, "data", mode=0o755, type=folder)
        _add(tar, "data/one", b"one\n", 0o640, uid=1000, gid=1001)
        _add(tar, "data/two", b"two\n")
        _add(tar, "data/same", mode=0o644, type=tarfile.LNKTYPE, linkname="data/two")
        _add(tar, "data/sub", mode=0o750, type=folder, uid=1000, gid=1001)
        _add(tar, "data/sub/deep", b"deep\n")
        _add(tar, "data/suid", b"suid\n", 0o4755)
        _add(tar, "data/pipe", mode=0o600, type=tarfile.FIFOTYPE)
        _add(tar, "data/to-one", mode=0o777, type=link, linkname="one")
        _add(tar, "data/nowhere", mode=0o777, type=link, linkname="/not/there")
        _add(tar, "to-data", mode=0o777, type=link, linkname="/data")
        _add(tar, "to-two", mode=0o777, type=link, linkname="data/two")
        _add(tar, "private", mode=0o700, type=folder, uid=1002, gid=1002)
    return out.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes = b"", mode: int = 0o644, **fields: object) -> None:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.size, entry.mtime = mode, len(content), 946684800
    for name, value in fields.items():
        setattr(entry, name, value)
    tar.addfile(entry, io.BytesIO(content))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
