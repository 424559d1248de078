"""Machines in registries: an OCI artifact whose configuration is the machine's manifest and whose layers are its parts.

Source: OCI image spec 1.1, manifest.md ("Guidelines for Artifact Usage").
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from cache.names import NamedImage
from cache.store import Store
from engine.events import Observer
from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.jsonvalue import dump
from engine.images.manifest import Manifest, parse_manifest
from engine.images.push import Pushed, push_image
from engine.images.reference import Reference
from engine.images.registry import RegistryClient
from engine.imagestore import keep
from engine.layers.limits import LayerLimits
from engine.machines.library import MANIFEST, Library, Machine
from engine.machines.manifest import MAX_BYTES, MachineManifest, Part, parse_machine
from engine.machines.sparse import RunReader, write_runs
from engine.parallel import in_parallel
from engine.vm.frozen import disk_errors
from machinefile.errors import InterruptedBuildError, UntrustedDataError
from machinefile.values import dataclass

ARTIFACT_TYPE = "application/vnd.mbuild.machine.v1"
CONFIG_TYPE = "application/vnd.mbuild.machine.config.v1+json"
PART_TYPE = "application/vnd.mbuild.machine.part.v1.runs+zstd"
_TITLE = "org.opencontainers.image.title"
_LEVEL = 1
"""Of zstd: memory is large, and the faster levels leave little behind."""
_STEP = 1024
"""Bytes fed to zstd at once: a block of 4 bytes may stand for 128 KiB, so this much can become 32 MiB, no more."""
_MAX_WINDOW = 1 << 27
_PARALLEL = 2
"""Parts at a time."""


def is_machine(manifest: Manifest) -> bool:
    """Whether an artifact is a machine."""
    return manifest.config.media_type == CONFIG_TYPE


@dataclass(frozen=True, slots=True)
class _Packed:
    """What a push sends, by digest."""

    files: dict[str, Path]

    def open(self, digest: str) -> BinaryIO:
        return self.files[digest].open("rb")


def push_machine(
    store: Store,
    client: RegistryClient,
    machine: Machine,
    destination: Reference,
    observer: Observer,
    cancelled: threading.Event | None = None,
) -> Pushed:
    """Bring a machine into a registry. Its artifact names the image that it was made of as its subject.

    Raises as `push_image`, and HostError (`machine-unwritable`).
    """
    folder = store.folder()
    packed = _Packed({})
    config = machine.manifest.to_json()
    with disk_errors(folder):
        layers = [_pack(machine, part, folder, packed, cancelled) for part in machine.manifest.parts]
        (folder / "config").write_bytes(config)
    packed.files[digest_of(config)] = folder / "config"
    manifest = dump(
        {
            "schemaVersion": 2,
            "mediaType": mediatype.OCI_MANIFEST,
            "artifactType": ARTIFACT_TYPE,
            "config": Descriptor(CONFIG_TYPE, digest_of(config), len(config)).to_value(),
            "layers": [layer.to_value() for layer in layers],
            "subject": machine.manifest.image.to_value(),
        }
    )
    try:
        return push_image(client, destination, manifest, packed.open, observer=observer, cancelled=cancelled)
    finally:
        for path in packed.files.values():
            path.unlink(missing_ok=True)


def _pack(machine: Machine, part: Part, folder: Path, packed: _Packed, cancelled: threading.Event | None) -> Descriptor:
    import zstandard

    path = folder / part.name
    summed = hashlib.sha256()
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()
    with (machine.folder / part.name).open("rb") as source, path.open("wb") as target:

        def put(data: bytes) -> None:
            if cancelled is not None and cancelled.is_set():
                raise InterruptedBuildError
            summed.update(data)
            target.write(data)

        write_runs(source, lambda data: put(compressor.compress(data)))
        put(compressor.flush())
        size = target.tell()
    digest = f"sha256:{summed.hexdigest()}"
    packed.files[digest] = path
    return Descriptor(PART_TYPE, digest, size, annotations=((_TITLE, part.name),))


def pull_machine(
    store: Store,
    client: RegistryClient,
    reference: Reference,
    observer: Observer,
    cancelled: threading.Event | None = None,
) -> NamedImage:
    """Bring a machine of a registry into the store under its name. Every part is checked as it comes.

    Raises TransferError, UntrustedDataError (`not-a-machine`, `machine-invalid`, `machine-corrupt`, `digest-mismatch`,
    `layer-too-large`), HostError (`machine-unwritable`), StoreError, InterruptedBuildError.
    """
    data = client.manifest(reference, client.resolve(reference).digest)
    artifact = parse_manifest(data, f"the manifest of {reference.short}")
    if not isinstance(artifact, Manifest) or not is_machine(artifact):
        raise UntrustedDataError(f"{reference.short} is not a machine", code="not-a-machine", hint="check the name")
    config = _configuration(client, reference, artifact.config)
    manifest = parse_machine(config, f"the machine {reference.short}")
    layers = _layers(artifact, manifest, reference)
    library = Library(store)
    key = artifact.config.digest.removeprefix("sha256:")[:32]
    with store.lock(f"machine {key}", cancelled=cancelled):
        if library.get(key) is None:
            with library.making(key) as folder:
                fetches = [
                    partial(_fetch, client, reference, part, layers[part.name], folder) for part in manifest.parts
                ]
                in_parallel(fetches, _PARALLEL, cancelled)
                with disk_errors(folder):
                    (folder / MANIFEST).write_bytes(config)
        store.blobs.put(data)
        store.blobs.put(config)
        library.remember(digest_of(data), key)
    return keep(store, reference, digest_of(data), len(data), artifact.media_type)


def _configuration(client: RegistryClient, reference: Reference, descriptor: Descriptor) -> bytes:
    if descriptor.size > MAX_BYTES:
        raise UntrustedDataError(
            f"the machine {reference.short} has a manifest of {descriptor.size} bytes; at most {MAX_BYTES} are taken",
            code="machine-invalid",
        )
    taken = bytearray()
    client.blob(reference, descriptor, taken.extend, quiet=True)
    return bytes(taken)


def _layers(artifact: Manifest, manifest: MachineManifest, reference: Reference) -> dict[str, Descriptor]:
    """The blob of each part."""
    found = {layer.annotation(_TITLE): layer for layer in artifact.layers if layer.media_type == PART_TYPE}
    names = [part.name for part in manifest.parts]
    if sorted(found) != sorted(names) or len(found) != len(artifact.layers):
        raise UntrustedDataError(
            f"the artifact {reference.short} has other parts than its machine",
            code="machine-invalid",
            hint="the machine is damaged: push it again",
        )
    return found


def _fetch(
    client: RegistryClient,
    reference: Reference,
    part: Part,
    descriptor: Descriptor,
    folder: Path,
    stop: threading.Event,
) -> None:
    where = f"the part {part.name} of {reference.short}"
    # A size that no file may have (EFBIG), or that there is no room for, is found here too.
    with disk_errors(folder), (folder / part.name).open("wb") as file:
        reader = RunReader(file, part.size, where, LayerLimits.from_environment().max_bytes)
        unpack = unpacker(reader.feed, where)

        def sink(data: bytes) -> None:
            if stop.is_set():
                raise InterruptedBuildError
            unpack(data)

        client.blob(reference, descriptor, sink)
        reader.finish(part.digest)


def unpacker(sink: Callable[[bytes], object], where: str) -> Callable[[bytes], None]:
    """What takes zstd in pieces and gives the plain bytes to `sink`, a bounded amount at once.

    Raises UntrustedDataError (`machine-corrupt`) when it is no zstd.
    """
    import zstandard

    frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()

    def unpack(data: bytes) -> None:
        pieces: Sequence[bytes] = [data[at : at + _STEP] for at in range(0, len(data), _STEP)]
        for piece in pieces:
            try:
                plain = frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise UntrustedDataError(
                    f"{where} is damaged ({error})", code="machine-corrupt", hint="push the machine again"
                ) from error
            sink(plain)

    return unpack
