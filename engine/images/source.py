"""Where images come from, whatever it is: the seam between the engine and the world outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from engine.events import Observer, ignore
from engine.images.config import MAX_CONFIG_BYTES
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.download import Sink
from engine.images.image import ResolvedImage, check_is_image, empty_image, resolved
from engine.images.place import LocalPlace, Place, RegistryPlace, open_archive, open_layout
from engine.images.policy import RegistrySettings, TransferPolicy
from engine.images.reference import ArchiveReference, LayoutReference, Reference, Scratch, parse_reference
from engine.images.registry_flags import RegistryFlags
from engine.images.selection import select
from machinefile.errors import TransferError, UntrustedDataError
from machinefile.steps import BaseReference

if TYPE_CHECKING:
    from engine.images.credentials import CredentialStore
    from engine.images.registry import RegistryClient

_NO_FLAGS = RegistryFlags()

Stored = Callable[[str, int], bytes | None]
"""Gives a manifest or configuration by its digest and size (bytes; 0 where that is not known) where there is a copy at
hand."""


def nothing_stored(digest: str, size: int) -> bytes | None:
    """The store that has nothing."""
    return None


class ImageSource(Protocol):
    """Finds images and hands out their layers. Raises UsageError, TransferError, UntrustedDataError."""

    def resolve(self, base: BaseReference) -> ResolvedImage:
        """The image that a name stands for now, for a platform."""
        ...

    def fetch_blob(self, image: ResolvedImage, descriptor: Descriptor, sink: Sink) -> None:
        """Stream a blob of an image; when this returns, size and digest are right."""
        ...


class ImageSources:
    """The source that reads registries, layouts and archives; a context manager that threads may share.

    Nothing is asked of a registry that `stored` can answer: a name with a digest whose manifest and configuration
    are at hand needs no network.
    """

    def __init__(
        self,
        base_dir: Path,
        *,
        observer: Observer = ignore,
        stored: Stored = nothing_stored,
        credentials: CredentialStore | None = None,
        settings: RegistrySettings | None = None,
        flags: RegistryFlags = _NO_FLAGS,
        policy: TransferPolicy | None = None,
        cancelled: threading.Event | None = None,
    ) -> None:
        """`base_dir` is where the relative paths of layouts and archives begin. Without `settings` those of the
        environment count, read when a registry is first asked, after `flags`."""
        self._base_dir = base_dir
        self._observer = observer
        self._stored = stored
        self._credentials = credentials
        self._settings = settings
        self._flags = flags
        self._policy = policy
        self._cancelled = cancelled or threading.Event()
        self._held = ExitStack()
        self._lock = threading.RLock()
        self._client: RegistryClient | None = None
        self._places: dict[str, Place] = {}

    def __enter__(self) -> ImageSources:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.clear()
        self._client = None
        self._held.close()

    def resolve(self, base: BaseReference) -> ResolvedImage:
        """As in ImageSource."""
        if isinstance(parse_reference(base.reference), Scratch):
            return empty_image(base.platform)
        place = self._place(base.reference)

        def read(descriptor: Descriptor) -> bytes:
            return self._kept(descriptor) or place.manifest(descriptor)

        root = place.root()
        _, manifest, data = select(root, base.platform, read, base.reference)
        check_is_image(base.reference, manifest)
        if manifest.config.size > MAX_CONFIG_BYTES:
            raise UntrustedDataError(
                f"the configuration of {base.reference} has {manifest.config.size} bytes; "
                f"at most {MAX_CONFIG_BYTES} are taken",
                code="config-invalid",
            )
        configuration = self._kept(manifest.config) or place.configuration(manifest.config)
        return resolved(base.reference, data, configuration, root.digest)

    def fetch_blob(self, image: ResolvedImage, descriptor: Descriptor, sink: Sink) -> None:
        """As in ImageSource."""
        self._place(image.reference).stream(descriptor, sink)

    def _kept(self, descriptor: Descriptor) -> bytes | None:
        data = self._stored(descriptor.digest, descriptor.size)
        if data is None or descriptor.size not in (0, len(data)):
            return None
        return data if digest_of(data) == descriptor.digest else None

    def place(self, text: str) -> Place:
        """What is under a name, as it is there. Raises as `resolve`."""
        return self._place(text)

    def _place(self, text: str) -> Place:
        with self._lock:
            place = self._places.get(text)
            if place is None:
                place = self._places[text] = self._open(text)
            return place

    def _open(self, text: str) -> Place:
        match parse_reference(text):
            case Reference() as reference:
                return RegistryPlace(self.registry, reference)
            case LayoutReference() as reference:
                root, blobs = open_layout(self._base_dir, reference, self._held)
            case ArchiveReference() as reference:
                root, blobs = open_archive(self._base_dir, reference, self._held)
            case Scratch():
                raise TransferError("scratch has no blobs", code="blob-not-found")
        return LocalPlace(root, blobs, text, self._observer, self._cancelled)

    def registry(self) -> RegistryClient:
        """The client that asks registries, made when it is first needed."""
        from engine.images.registry import RegistryClient  # and with it httpx, only when a registry is asked

        with self._lock:
            if self._client is None:
                client = RegistryClient(
                    observer=self._observer,
                    credentials=self._credentials,
                    settings=self._settings or RegistrySettings.from_environment(flags=self._flags),
                    policy=self._policy,
                    cancelled=self._cancelled,
                )
                self._client = self._held.enter_context(client)
            return self._client
