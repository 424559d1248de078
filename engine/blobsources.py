"""Where the blobs of layers can be had that are not in the store: bases' registries, caches elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, Protocol

from cache.blobs import BlobWriter
from cache.growing import BlobFollower, GrowingBlob
from cache.results import Layer
from cache.spans import span
from cache.store import Store
from engine.events import Note, Observer
from engine.images.reference import Reference
from engine.origins import remember
from engine.parallel import Background, in_parallel
from machinefile.errors import HostError, InterruptedBuildError, StoreError, TransferError
from machinefile.values import dataclass

PARALLEL = 4
"""Layers at a time."""

Sink = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to get a blob."""

    fetch: Callable[[Sink], None]
    """Streams it, each byte once and in order; when this returns, size and digest are right. Tells how far it is."""
    reference: Reference | None = None
    """The repository that it is in, if it is in one."""


class BlobProvider(Protocol):
    """Something that has blobs."""

    def offers(self, layer: Layer) -> Sequence[Offer]:
        """The ways to get a layer's blob from here, the best first; none for one that is not there."""
        ...


class BlobSources:
    """Brings the blobs of layers into the store when they are needed. Providers are asked in turn: what one fails of,
    the next may have. Threads may share it."""

    def __init__(self, store: Store, observer: Observer, cancelled: threading.Event | None = None) -> None:
        self._store = store
        self._observer = observer
        self._cancelled = cancelled
        self._providers: list[BlobProvider] = []
        self._arriving: dict[str, GrowingBlob] = {}
        self._arriving_lock = threading.Lock()

    def add(self, provider: BlobProvider) -> None:
        """Ask this one too, after those that are there."""
        self._providers.append(provider)

    def pull(self, layer: Layer, stop: threading.Event | None = None) -> None:
        """Bring a layer into the store, unless it is there; another process that does so is waited for.

        Raises TransferError, UntrustedDataError, HostError, StoreError (`blob-missing` when nobody has it).
        """
        if not self._store.blobs.is_sound(layer.digest, layer.size):
            self._fetch(layer, None, stop or threading.Event())
            self.remember([layer])

    def pull_all(self, layers: Sequence[Layer], stop: threading.Event | None = None) -> None:
        """Bring layers into the store, a few at a time; the first failure stops the others, and so does `stop`.

        Raises as `pull`, and InterruptedBuildError.
        """
        wanted = self._missing(layers)
        in_parallel([partial(self._fetch, layer, None) for layer in wanted], PARALLEL, stop or self._cancelled)
        self.remember(wanted)

    @contextmanager
    def pulling(self, layers: Sequence[Layer], stop: threading.Event | None = None) -> Iterator[None]:
        """As `pull_all`, while the caller reads the layers (see `open`) as they come; leaving waits for the rest.

        A layer that comes for somebody else already is waited for, and read as it comes there. When both fail,
        what the pull failed of is raised: it is why the other did.
        """
        wanted = self._missing(layers)
        with self._arriving_lock:
            arriving = {layer.digest: GrowingBlob() for layer in wanted if layer.digest not in self._arriving}
            self._arriving.update(arriving)

        def end() -> None:  # also for those that never began
            for blob in arriving.values():
                blob.end()

        tasks = [partial(self._fetch, layer, arriving.get(layer.digest)) for layer in wanted]
        try:
            with Background(tasks, PARALLEL, stop or self._cancelled, end):
                yield
        finally:
            for digest, blob in arriving.items():
                with self._arriving_lock:
                    del self._arriving[digest]
                blob.close()
        self.remember(wanted)

    def open(self, layer: Layer) -> BinaryIO | BlobFollower:
        """A layer's blob, compressed or not: out of the store, or as it comes. What nobody pulls yet is pulled first.

        Raises as `pull`; InterruptedBuildError when what is on its way does not arrive.
        """
        arriving = self._arriving.get(layer.digest)
        if arriving is not None:
            if (follower := arriving.open()) is not None:
                return follower
            if not self._store.blobs.has(layer.digest, layer.size):
                raise InterruptedBuildError
        self.pull(layer)
        return self._store.blobs.open(layer.digest)

    def remember(self, layers: Sequence[Layer]) -> None:
        """Remember which repositories layers are in, so that a push to one beside them need not send them."""
        for layer in layers:
            for offer in self._offers(layer):
                if offer.reference is not None:
                    remember(self._store, [layer.digest], offer.reference)

    def _offers(self, layer: Layer) -> list[Offer]:
        return [offer for provider in self._providers for offer in provider.offers(layer)]

    def _missing(self, layers: Sequence[Layer]) -> list[Layer]:
        sound = self._store.blobs.is_sound
        return list({layer.digest: layer for layer in layers if not sound(layer.digest, layer.size)}.values())

    def _fetch(self, layer: Layer, growing: GrowingBlob | None, stop: threading.Event) -> None:
        def waiting() -> None:
            self._observer(Note(f"waiting for another pull of {layer.digest}"))

        try:
            offers = self._offers(layer)
            if not offers:
                raise StoreError(
                    f"the store has lost the layer {layer.digest}",
                    code="blob-missing",
                    hint="build again: what is missing is made anew",
                )
            with self._store.lock(f"blob {layer.digest}", cancelled=self._cancelled, waiting=waiting):
                if not self._store.blobs.is_sound(layer.digest, layer.size):
                    with (
                        span("pull", "transfer", blob=layer.digest, bytes=layer.size),
                        self._store.blobs.writer(layer.digest, growing) as writer,
                    ):
                        _take(offers, writer, stop, may_restart=growing is None)
        finally:
            if growing is not None:
                growing.end()


def _take(offers: Sequence[Offer], writer: BlobWriter, stop: threading.Event, *, may_restart: bool) -> None:
    """Write what the first offer gives that holds what it promises."""
    ours: list[BaseException] = []

    def sink(data: bytes) -> None:
        if stop.is_set():
            raise InterruptedBuildError
        try:
            writer.write(data)
        except BaseException as error:  # the store's failure is no fault of who sends
            ours.append(error)
            raise

    for number, offer in enumerate(offers, 1):
        try:
            offer.fetch(sink)
            return
        except (TransferError, HostError):
            if ours:
                raise ours[0] from None
            if number == len(offers) or (writer.size and not may_restart):
                raise
        if writer.size:
            writer.restart()
