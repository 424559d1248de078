"""Reads an image with nothing but the standard library, so that a bug in mbuild's own reader cannot hide in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FIELDS = (
    "Env",
    "Cmd",
    "Entrypoint",
    "User",
    "WorkingDir",
    "ExposedPorts",
    "Labels",
    "Volumes",
    "StopSignal",
    "OnBuild",
    "Shell",
    "Healthcheck",
)
_KINDS = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}
_XATTR = "SCHILY.xattr."
_SHOWN = 80
_numbers = itertools.count()


@dataclass(frozen=True)
class Node:
    """One inode: two paths with the same node are hard links."""

    kind: str
    mode: int
    uid: int
    gid: int
    detail: str = ""
    """What is in a file, where a link points, a device's numbers."""
    xattrs: tuple[tuple[str, str], ...] = ()
    number: int = field(default_factory=_numbers.__next__)

    def __str__(self) -> str:
        mode = "" if self.kind == "link" else f" {self.mode:o}"
        detail = {"link": f" -> {self.detail}", "file": f" {self.detail}"}.get(self.kind, f" {self.detail}").rstrip()
        return f"{self.kind}{mode} {self.uid}:{self.gid}{detail}" + "".join(f" {n}={v}" for n, v in self.xattrs)


@dataclass(frozen=True)
class Image:
    """What a builder made."""

    tree: Mapping[str, str]
    """Every path, absolute, with all that can be said of it in one line."""
    config: Mapping[str, Any]
    """The fields that an instruction can set, those that are empty left out."""
    platform: str

    @property
    def essence(self) -> tuple[object, ...]:
        """What two images must have in common. In which order the environment is listed is nothing that they mean."""
        config = {name: sorted(value) if name == "Env" else value for name, value in self.config.items()}
        return dict(self.tree), config, self.platform


def read_layout(folder: Path) -> Image:
    """The only image of an OCI layout."""
    index = json.loads((folder / "index.json").read_bytes())
    (entry,) = index["manifests"]
    blobs = folder / "blobs" / "sha256"
    return _read(json.loads(_blob(blobs, entry)), blobs)


def read_dir(folder: Path) -> Image:
    """An image in the `dir:` form of containers/image: a manifest, and blobs named by their digests."""
    return _read(json.loads((folder / "manifest.json").read_bytes()), folder)


def changed(image: Image, base: Image) -> dict[str, str]:
    """What stands in one image and not, or differently, in the other; `gone` for what it lost."""
    paths = sorted({*image.tree, *base.tree})
    return {p: image.tree.get(p, "gone") for p in paths if image.tree.get(p) != base.tree.get(p)}


def _read(manifest: dict[str, Any], blobs: Path) -> Image:
    config = json.loads(_blob(blobs, manifest["config"]))
    nodes: dict[str, Node] = {}
    for descriptor, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        data = _blob(blobs, descriptor)
        tar = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        assert "sha256:" + hashlib.sha256(tar).hexdigest() == diff_id
        _apply(tar, nodes)
    return Image(_shown(nodes), _fields(config.get("config") or {}), f"{config['os']}/{config['architecture']}")


def _blob(blobs: Path, descriptor: dict[str, Any]) -> bytes:
    data = (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert hashlib.sha256(data).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    assert len(data) == descriptor["size"]
    return data


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    found = {name: config[name] for name in _FIELDS if config.get(name)}
    labels = {name: value for name, value in found.pop("Labels", {}).items() if name != "io.buildah.version"}
    health = {name: value for name, value in found.pop("Healthcheck", {}).items() if value}
    return {**found, **({"Labels": labels} if labels else {}), **({"Healthcheck": health} if health else {})}


def _apply(tar: bytes, nodes: dict[str, Node]) -> None:
    """Lay one layer over what the ones below it made. Source: OCI image specification, layer.md."""
    added: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for entry in archive:
            path = "/" + entry.name.removeprefix("./").strip("/")
            path = "/" if path == "/." else path
            folder, _, name = path.rpartition("/")
            if name == ".wh..wh..opq":
                _remove(nodes, folder, keep=added, itself=False)
            elif name.startswith(".wh."):
                _remove(nodes, f"{folder}/{name.removeprefix('.wh.')}", keep=added)
            else:
                _place(nodes, path, entry, archive)
                added.add(path)


def _place(nodes: dict[str, Node], path: str, entry: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    above = path
    while above := above.rpartition("/")[0]:
        nodes.setdefault(above, Node("dir", 0o755, 0, 0))
    if not entry.isdir():
        _remove(nodes, path, keep=set())
    if entry.islnk():
        nodes[path] = nodes["/" + entry.linkname.removeprefix("./").strip("/")]
        return
    xattrs = tuple(sorted((k.removeprefix(_XATTR), v) for k, v in entry.pax_headers.items() if k.startswith(_XATTR)))
    detail = _detail(entry, archive)
    nodes[path] = Node(_KINDS[entry.type], entry.mode & 0o7777, entry.uid, entry.gid, detail, xattrs)


def _detail(entry: tarfile.TarInfo, archive: tarfile.TarFile) -> str:
    if entry.issym():
        return entry.linkname
    if entry.ischr() or entry.isblk():
        return f"{entry.devmajor},{entry.devminor}"
    if not entry.isreg():
        return ""
    file = archive.extractfile(entry)
    assert file is not None
    content = file.read()
    if len(content) <= _SHOWN:
        return repr(content)[1:]
    return f"{len(content)} bytes, sha256:{hashlib.sha256(content).hexdigest()[:16]}"


def _remove(nodes: dict[str, Node], path: str, *, keep: set[str], itself: bool = True) -> None:
    for other in [other for other in nodes if other.startswith(path + "/") or (itself and other == path)]:
        if other not in keep:
            del nodes[other]


def _shown(nodes: dict[str, Node]) -> dict[str, str]:
    first: dict[int, str] = {}
    shown = {}
    for path in sorted(nodes):
        holder = first.setdefault(nodes[path].number, path)
        shown[path] = str(nodes[path]) if holder == path else f"same file as {holder}"
    shown.pop("/", None)  # no builder agrees with another on what the root itself is, and none lets a file say it
    return shown
