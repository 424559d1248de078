"""One image somewhere: how its manifest is found there, and how blobs come from there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from engine.events import Observer, ignore
from engine.images.config import MAX_CONFIG_BYTES
from engine.images.descriptor import Descriptor
from engine.images.docker_archive import DockerArchive
from engine.images.download import Sink, Verifier
from engine.images.files import Files, FolderFiles
from engine.images.layout import INDEX_FILE, OciLayout
from engine.images.manifest import MAX_MANIFEST_BYTES
from engine.images.reference import ArchiveReference, LayoutReference, Reference
from machinefile.errors import InterruptedBuildError, TransferError

if TYPE_CHECKING:
    from engine.images.registry import RegistryClient


class Place(Protocol):
    """One image somewhere. What it gives is verified."""

    def root(self) -> Descriptor:
        """What the name stands for: a manifest or an index."""
        ...

    def manifest(self, descriptor: Descriptor) -> bytes:
        """A manifest or an index."""
        ...

    def configuration(self, descriptor: Descriptor) -> bytes:
        """A configuration."""
        ...

    def stream(self, descriptor: Descriptor, sink: Sink) -> None:
        """A blob of any size."""
        ...


class RegistryPlace:
    """An image in a registry."""

    def __init__(self, client: Callable[[], RegistryClient], reference: Reference) -> None:
        """`client` is called when the registry must be asked, and not before."""
        self._client = client
        self._reference = reference

    def root(self) -> Descriptor:
        """As in Place. A digest in the name is the answer: its size is not known, and not needed."""
        if self._reference.digest:
            return Descriptor("", self._reference.digest, 0)
        return self._client().resolve(self._reference)

    def manifest(self, descriptor: Descriptor) -> bytes:
        """As in Place."""
        return self._client().manifest(self._reference, descriptor.digest)

    def configuration(self, descriptor: Descriptor) -> bytes:
        """As in Place."""
        parts: list[bytes] = []
        self._client().blob(self._reference, descriptor, parts.append, quiet=True)
        return b"".join(parts)

    def stream(self, descriptor: Descriptor, sink: Sink) -> None:
        """As in Place."""
        self._client().blob(self._reference, descriptor, sink)


class Blobs(Protocol):
    """What a layout and an archive have in common."""

    def read(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, verified."""
        ...

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob's bytes, not verified."""
        ...


class LocalPlace:
    """An image in a layout or an archive on this machine."""

    def __init__(
        self,
        root: Descriptor,
        blobs: Blobs,
        label: str,
        observer: Observer = ignore,
        cancelled: threading.Event | None = None,
    ) -> None:
        """`label` names it to the user."""
        self._root = root
        self._blobs = blobs
        self._label = label
        self._observer = observer
        self._cancelled = cancelled or threading.Event()

    def root(self) -> Descriptor:
        """As in Place."""
        return self._root

    def manifest(self, descriptor: Descriptor) -> bytes:
        """As in Place."""
        return self._blobs.read(descriptor, MAX_MANIFEST_BYTES)

    def configuration(self, descriptor: Descriptor) -> bytes:
        """As in Place."""
        return self._blobs.read(descriptor, MAX_CONFIG_BYTES)

    def stream(self, descriptor: Descriptor, sink: Sink) -> None:
        """As in Place."""
        verifier = Verifier(descriptor, self._label, sink, self._observer)
        for chunk in self._blobs.chunks(descriptor):
            if self._cancelled.is_set():
                raise InterruptedBuildError
            verifier.feed(chunk)
        verifier.finish()


def open_layout(base_dir: Path, reference: LayoutReference, held: ExitStack) -> tuple[Descriptor, Blobs]:
    """An image of a layout, a folder or a tar; `held` closes what was opened."""
    path = base_dir / reference.path
    files: Files = FolderFiles(path) if path.is_dir() else _open_tar(path, held)
    layout = OciLayout(files, reference.path)
    return layout.find(reference.tag, reference.digest), layout


def open_archive(base_dir: Path, reference: ArchiveReference, held: ExitStack) -> tuple[Descriptor, Blobs]:
    """An image of an archive; `held` closes what was opened.

    Newer archives are layouts too, and keep the image's own digest: that goes first, as far as its blobs are there.
    """
    files = _open_tar(base_dir / reference.path, held)
    if not DockerArchive.is_in(files):
        raise TransferError(
            f"{reference.path} is not an archive of docker save: it has no manifest.json",
            code="image-not-found",
            hint=f"if it is a tar of an OCI layout, write oci-layout:{reference.path}",
        )
    if files.size(INDEX_FILE) is not None:
        layout = OciLayout(files, reference.path)
        root = _complete(layout, reference)
        if root is not None:
            return root, layout
    archive = DockerArchive(files, reference.path, reference.name)
    return archive.root(), archive


def _open_tar(path: Path, held: ExitStack) -> Files:
    from engine.images.archive import TarFiles  # tarfile and its decompressors are of no use to a registry

    return held.enter_context(TarFiles(path))


def _complete(layout: OciLayout, reference: ArchiveReference) -> Descriptor | None:
    name = str(Reference.parse(reference.name)) if reference.name else ""
    try:
        return layout.complete(layout.find(name))
    except TransferError as error:
        if error.code in ("image-not-found", "image-ambiguous"):  # manifest.json may know better
            return None
        raise
