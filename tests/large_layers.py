"""Layers too large to hold in memory, made on the fly: half of each file is text, half is noise."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from isal import isal_zlib

_MIB = 1 << 20
_SMALL = 64


class _Content(io.RawIOBase):
    """`size` bytes that compress to about half. The same for the same seed."""

    def __init__(self, size: int, seed: int) -> None:
        self._left = size
        self._pieces = _pieces(seed)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._pieces))
        count = min(len(buffer), len(self._rest), self._left)
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._left -= count
        return count


def _pieces(seed: int) -> Iterator[bytes]:
    noise = random.Random(seed)
    number = 0
    while True:
        lines = b"".join(b"line %d of a long story\n" % (number + line) for line in range(1000))
        number += 1000
        yield noise.randbytes(_MIB // 2) + (lines * (_MIB // len(lines)))[: _MIB // 2]


def write_large_tar(out: BinaryIO, size: int) -> None:
    """A tar of `size` bytes: `big` has three quarters of it, `small/*` a MiB each of the rest."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_MIB) as tar:
        big = size * 3 // 4
        files = [("big", big), *((f"small/{number}", _MIB) for number in range((size - big) // _MIB))]
        for number, (path, length) in enumerate(files):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = length, 0o644
            tar.addfile(entry, io.BufferedReader(_Content(length, number), _MIB))


class GzipFile(io.RawIOBase):
    """Compresses what is written to it, in one member, and hashes both sides."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._compressor = isal_zlib.compressobj(1, wbits=31)
        self.plain, self.packed, self.size = hashlib.sha256(), hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.plain.update(data)
        self._put(self._compressor.compress(data))
        return len(data)

    def finish(self) -> None:
        self._put(self._compressor.flush())

    def _put(self, data: bytes) -> None:
        self._out.write(data)
        self.packed.update(data)
        self.size += len(data)


def write_large_layout(folder: Path, size: int, tag: str = "latest") -> None:
    """An OCI layout with one image, whose one gzip layer has `size` bytes unpacked."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    with (blobs / "layer").open("wb") as file:
        layer = GzipFile(file)
        write_large_tar(layer, size)  # type: ignore[arg-type]
        layer.finish()
    (blobs / "layer").rename(blobs / layer.packed.hexdigest())

    def described(kind: str, digest: str, length: int) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": length}

    def put(kind: str, value: object) -> dict[str, object]:
        content = json.dumps(value).encode()
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return described(kind, digest, len(content))

    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.plain.hexdigest()}"]},
        "history": [{"created_by": "noise"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config.v1+json", config),
        "layers": [described("layer.v1.tar+gzip", layer.packed.hexdigest(), layer.size)],
    }
    entry = put("manifest.v1+json", manifest)
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
