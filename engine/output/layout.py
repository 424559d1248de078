"""-o type=oci and type=docker: an image, or an index of several, as an OCI layout, in a folder or a tar.

The tar for Docker is an OCI layout too, with `manifest.json` beside its index, as `docker save` writes it: Docker reads
either, older tools only the second. Sources: OCI image spec, image-layout.md; Docker image spec v1.2.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cache.store import Store
from engine.images.descriptor import Descriptor
from engine.images.jsonvalue import dump
from engine.images.layout import IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME, VERSION, blob_name
from engine.images.layout_writer import LayoutWriter
from engine.images.manifest import Index
from engine.images.reference import Reference
from engine.layers.compression import CHUNK, Sink
from engine.layers.conveyor import conveyed
from engine.layers.entry import NORMAL_TIME, Entry, EntryType
from engine.layers.headerwrite import header_blocks
from engine.layers.tarheader import BLOCK, ZERO_BLOCK
from engine.output.image import BuiltImage
from engine.output.index import Built
from machinefile.errors import InterruptedBuildError, StoreError
from machinefile.imageconfig import Pairs

_MANIFEST_FILE = "manifest.json"
_NO_NAME = "latest"


def write_folder(built: Built, names: tuple[str, ...], folder: Path, store: Store, cancelled: threading.Event) -> None:
    """Write a layout into a folder, where its other images stay. What has no name is tagged `latest`.

    Until its index is replaced, last, a reader sees the folder as it was. Raises HostError (`output-failed`),
    UsageError (`output-not-a-layout`).
    """
    writer = LayoutWriter(folder)
    for descriptor in built.below():
        if not writer.has_blob(descriptor):
            writer.add_checked(_chunks(descriptor, store, cancelled), descriptor)
    for entry in map(dict, _listed(names)):
        writer.add_manifest(built.document, tag=entry[REF_NAME], name=entry.get(IMAGE_NAME, ""))
    writer.commit()


def write_archive(
    built: Built,
    names: tuple[str, ...],
    out: Sink,
    store: Store,
    cancelled: threading.Event,
    *,
    docker: bool,
    time: int = NORMAL_TIME,
) -> None:
    """Write a layout as a tar; the same image, names and time (seconds since 1970) give the same bytes.

    Docker takes a lone image only; one without a name has none there.
    Raises StoreError (`blob-corrupt`), InterruptedBuildError.
    """
    whole = Descriptor(built.media_type, built.digest, built.size)
    listed = _listed(names, nameless=() if docker else ((REF_NAME, _NO_NAME),))
    small = {
        INDEX_FILE: Index(tuple(_annotated(whole, entry) for entry in listed)).to_json(),
        LAYOUT_FILE: dump({"imageLayoutVersion": VERSION}),
    }
    if docker and isinstance(built, BuiltImage):
        small[_MANIFEST_FILE] = _docker_manifest(built, names)
    large = {blob_name(blob.digest): blob for blob in (*built.below(), whole)}
    put = partial(_put, out, time)
    put("blobs")
    put("blobs/sha256")
    for name, blob in sorted(large.items()):
        put(name, blob.size)
        for chunk in _chunks(blob, store, cancelled):
            out.write(chunk)
        out.write(bytes(-blob.size % BLOCK))
    for name, data in sorted(small.items()):
        put(name, len(data))
        out.write(data + bytes(-len(data) % BLOCK))
    out.write(ZERO_BLOCK * 2)


def _put(out: Sink, time: int, name: str, size: int | None = None) -> None:
    """A header: of a folder without a size. As everything that mbuild writes: one time, no owner."""
    if size is None:
        out.write(header_blocks(Entry(name, EntryType.DIRECTORY, 0o755, mtime=time)))
    else:
        out.write(header_blocks(Entry(name, EntryType.FILE, 0o644, size=size, mtime=time)))


def _listed(names: tuple[str, ...], nameless: Pairs = ((REF_NAME, _NO_NAME),)) -> list[Pairs]:
    """The annotations of each line of the index: the tag for readers of layouts, the whole name for containerd."""
    return [((IMAGE_NAME, name), (REF_NAME, _tag(name))) for name in names] or [nameless]


def _tag(name: str) -> str:
    return Reference.parse(name).tag or _NO_NAME


def _annotated(descriptor: Descriptor, annotations: Pairs) -> Descriptor:
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, annotations=annotations)


def _docker_manifest(image: BuiltImage, names: tuple[str, ...]) -> bytes:
    config, *layers = [blob_name(blob.digest) for blob in image.below()]
    tags = [Reference.parse(name).short for name in names]
    return json.dumps([{"Config": config, "RepoTags": tags or None, "Layers": layers}], separators=(",", ":")).encode()


def _chunks(descriptor: Descriptor, store: Store, cancelled: threading.Event) -> Iterator[bytes]:
    """A blob's bytes, checked: after the last, StoreError (`blob-corrupt`) if they were not what they should be."""
    summed, size = hashlib.sha256(), 0
    # Hashed while the chunk is written, and the next one read.
    with store.blobs.open(descriptor.digest) as file, conveyed(summed.update, "digest") as hashing:
        while chunk := file.read(min(CHUNK, descriptor.size - size + 1)):
            if cancelled.is_set():
                raise InterruptedBuildError
            hashing.write(chunk)
            size += len(chunk)
            if size > descriptor.size:
                break
            yield chunk
        hashing.finish()
    if size != descriptor.size or f"sha256:{summed.hexdigest()}" != descriptor.digest:
        store.blobs.drop(descriptor.digest)
        raise StoreError(
            f"the blob {descriptor.digest} in the store was damaged, and was removed",
            code="blob-corrupt",
            hint="build again: what is missing is made anew",
        )
