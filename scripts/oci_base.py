#!/usr/bin/env python3
"""Wraps a root file system in an image: oci_base.py ROOT.tar.gz LAYOUT

Makes an OCI image layout folder with one image of one layer, tagged bookworm-slim. Equal input gives equal bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import shutil
import sys
from pathlib import Path

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OCI = "application/vnd.oci.image"


def _digest(path: Path, *, unpacked: bool = False) -> str:
    with gzip.open(path) if unpacked else path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _blob(layout: Path, content: bytes, media_type: str) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    (layout / "blobs/sha256" / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def make_layout(root: Path, layout: Path, tag: str) -> None:
    """Write the layout; `layout` must not exist."""
    (layout / "blobs/sha256").mkdir(parents=True)
    digest = _digest(root)
    shutil.copyfile(root, layout / "blobs/sha256" / digest.removeprefix("sha256:"))
    layer = {"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": digest, "size": root.stat().st_size}
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": "1980-01-02T00:00:00Z",
        "config": {"Env": [f"PATH={_PATH}"], "Cmd": ["bash"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(root, unpacked=True)]},
        "history": [{"created": "1980-01-02T00:00:00Z", "created_by": "mmdebstrap"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _blob(layout, _json(config), f"{_OCI}.config.v1+json"),
        "layers": [layer],
    }
    entry = _blob(layout, _json(manifest), f"{_OCI}.manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (layout / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: oci_base.py ROOT.tar.gz LAYOUT")
    make_layout(Path(sys.argv[1]), Path(sys.argv[2]), "bookworm-slim")
