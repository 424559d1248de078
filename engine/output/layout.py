"""-o type=oci: an image as an OCI layout, a folder or a tar of one."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from cache.store import Store
from engine.images.descriptor import Descriptor
from engine.images.layout_writer import LayoutWriter
from engine.layers.entry import NORMAL_TIME
from engine.output.image import BuiltImage
from engine.output.spec import OutputSpec
from machinefile.errors import HostError

_CHUNK = 1 << 20


def write_layout(image: BuiltImage, names: tuple[str, ...], output: OutputSpec, store: Store) -> None:
    """Write the image; its tag is that of the first name, `latest` without one.

    A folder that holds a layout keeps its other images. Raises HostError (`output-failed`), UsageError.
    """
    tag = names[0].rpartition(":")[2] if names else "latest"
    if not output.tar:
        _write_folder(image, tag, output.destination, store)
        return
    folder = store.folder()
    _write_folder(image, tag, folder / "layout", store)
    _pack(folder / "layout", output.destination, folder)
    shutil.rmtree(folder, ignore_errors=True)


def _write_folder(image: BuiltImage, tag: str, folder: Path, store: Store) -> None:
    writer = LayoutWriter(folder)
    for descriptor in (image.manifest.config, *image.manifest.layers):
        if not writer.has_blob(descriptor):
            writer.add_blob(_chunks(descriptor, store), descriptor.media_type, descriptor.digest)
    writer.add_manifest(image.manifest, tag=tag)
    writer.commit()


def _chunks(descriptor: Descriptor, store: Store) -> Iterator[bytes]:
    with store.blobs.open(descriptor.digest) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _pack(folder: Path, destination: Path, temporary: Path) -> None:
    """The same layout gives the same tar: sorted, one time, no owner's name."""

    def normal(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = NORMAL_TIME
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    packed = destination.with_name(f".{destination.name}.{temporary.name}")
    try:
        with tarfile.open(packed, "x", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(folder.rglob("*")):
                tar.add(path, str(path.relative_to(folder)), recursive=False, filter=normal)
        packed.replace(destination)
    except OSError as error:
        raise HostError(
            f"{destination} cannot be written: {error.strerror or error}",
            code="output-failed",
            hint="check the path, its rights and the space left",
        ) from error
    finally:
        packed.unlink(missing_ok=True)
