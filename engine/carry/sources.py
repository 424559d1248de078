"""The caches elsewhere that a build may use: read when the first result is missing here, and not before."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cache.results import Layer
from engine.events import Note, Observer, WarningRaised
from engine.images.reference import Reference
from machinefile.errors import InterruptedBuildError, MbuildError, UsageError
from machinefile.values import dataclass

if TYPE_CHECKING:
    # A build without --cache-from has no use for them.
    from cache.carry.entry import CacheEntry, CarriedMount
    from cache.carry.index import CacheIndex
    from cache.carry.place import CachePlace
    from engine.blobsources import Offer, Sink
    from engine.carry.spec import CacheSource

    OpenSource = Callable[[CacheSource], CachePlace]

DEADLINE = 30.0
"""Seconds for the indexes of all caches: a build waits no longer for them."""
_MOST_LOST = 3
"""Layers that a place may promise in vain before nothing of it is believed any more."""
_POLL = 0.1
"""Seconds between two looks at whether the build was stopped."""


class Trust(Protocol):
    """Whom to believe: cache.carry.signing.Verifier."""

    def trusts(self, entry: CacheEntry | CarriedMount) -> bool:
        """Whether somebody whom we believe vouches for it."""
        ...


OpenTrust = Callable[[Sequence[Path]], Trust]


@dataclass(frozen=True, slots=True)
class Found:
    """An entry that may be used."""

    entry: CacheEntry
    label: str
    """Of the place that it is in."""
    place: int = 0
    """Its number, in the order of --cache-from."""
    signed: bool = False
    """Whether a trusted key has signed it; False where none was named."""


class RemoteCaches:
    """The places that --cache-from names, in that order: the first that has an entry wins. Threads may share it.

    A place that fails is left out with a warning, and nothing of one is used any more after a few layers that it
    promised in vain. An entry counts unless a layer of it was found to be bad (`exclude`), or nobody vouches for it
    whom the source's keys know.
    """

    def __init__(
        self,
        sources: Sequence[CacheSource],
        open_source: OpenSource,
        observer: Observer,
        cancelled: threading.Event,
        *,
        open_trust: OpenTrust | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        """`deadline` in seconds."""
        self._readings = [_Reading(number, source, open_source, open_trust) for number, source in enumerate(sources)]
        self._observer = observer
        self._cancelled = cancelled
        self._deadline = deadline
        self._lock = threading.Lock()
        self._begun: float | None = None
        self._caches: tuple[_Cache, ...] | None = None
        self._bad: set[Layer] = set()
        self._losses: Counter[int] = Counter()

    def begin(self) -> None:
        """Read the indexes, without waiting for them."""
        with self._lock:
            self._start()

    def by_definition(self, key: str) -> Iterator[Found]:
        """The entries under a definition key. Raises UsageError for a key of --cache-from that cannot be used, and
        InterruptedBuildError."""
        for cache in self._loaded():
            entry = cache.index.entries.get(key)
            if entry is not None and self._counts(cache, entry, entry.result.steps):
                yield cache.found(entry)

    def by_content(self, key: str) -> Iterator[Found]:
        """The entries under a content key: only their last step is asked for. Raises as `by_definition`."""
        for cache in self._loaded():
            for entry in cache.by_content.get(key, ()):
                if self._counts(cache, entry, entry.result.steps[-1:]):
                    yield cache.found(entry)

    def refusal(self, key: str) -> str:
        """Why an entry under a definition key is not used though it is there, in words; empty when there is none."""
        for cache in self._loaded():
            entry = cache.index.entries.get(key)
            if entry is None:
                continue
            if not cache.trusts(entry):
                return f"in the cache {cache.label}, but not signed by a trusted key"
            if not self._counts(cache, entry, entry.result.steps):
                return f"in the cache {cache.label}, but not all of its layers can be had"
        return ""

    def mounts(self, identity: str) -> Iterator[tuple[CarriedMount, CachePlace]]:
        """The cache mounts of an identity that may be used, and where they are. Raises as `by_definition`."""
        for cache in self._loaded():
            mount = cache.index.mounts.get(identity)
            if mount is None:
                continue
            if cache.trust is None or cache.trust.trusts(mount):
                yield mount, cache.place
                continue
            message = f"the cache mount {mount.id} in {cache.label} is not used: no trusted key has signed it"
            self._observer(WarningRaised(message, "cache-unsigned"))

    def exclude(self, layer: Layer, found: Found) -> None:
        """Use no entry any more that has this layer, which cannot be had or is not what was `found` to say so.

        What else a place says of the same blob may be true: another place's word on it still counts."""
        self._bad.add(layer)
        self._losses[found.place] += 1

    def places(self) -> Iterator[tuple[CachePlace, CacheIndex]]:
        """The places, with their indexes. Asks none that was not read already."""
        return ((cache.place, cache.index) for cache in self._caches or ())

    def offers(self, layer: Layer) -> Sequence[Offer]:
        """As in BlobProvider. Asks no cache that was not read already."""
        return [cache.offer(layer, self._observer) for cache in self._caches or () if layer.digest in cache.blobs]

    def packing(self, layer: Layer) -> str:
        """How a layer's blob was compressed, in the words of who did; empty where nobody says."""
        names = (cache.index.packings.get(layer.digest, "") for cache in self._caches or ())
        return next(filter(None, names), "")

    def close(self) -> None:
        """Give back what the places hold."""
        for reading in self._readings:
            reading.leave()

    def _counts(self, cache: _Cache, entry: CacheEntry, steps: Sequence[Layer | None]) -> bool:
        if self._losses[cache.number] > _MOST_LOST or any(layer in self._bad for layer in steps):
            return False
        return cache.trusts(entry)

    def _start(self) -> None:
        if self._begun is None:
            self._begun = time.monotonic()
            for reading in self._readings:
                threading.Thread(target=reading.work, daemon=True).start()

    def _loaded(self) -> tuple[_Cache, ...]:
        with self._lock:
            if self._caches is None:
                self._start()
                until = (self._begun or 0.0) + self._deadline
                self._caches = tuple(
                    cache for reading in self._readings if (cache := self._result(reading, until)) is not None
                )
            return self._caches

    def _result(self, reading: _Reading, until: float) -> _Cache | None:
        while not reading.done.wait(min(_POLL, max(0.0, until - time.monotonic()))):
            if self._cancelled.is_set():
                raise InterruptedBuildError
            if time.monotonic() >= until:
                self._leave_out(reading, f"its index did not come within {self._deadline:g} seconds")
                return None
        error = reading.error
        if isinstance(error, (UsageError, InterruptedBuildError)) or (error and not isinstance(error, MbuildError)):
            raise error
        if isinstance(error, MbuildError):
            self._leave_out(reading, error.message)
            return None
        if reading.cache is not None and not (reading.cache.index.entries or reading.cache.index.mounts):
            self._observer(Note(f"there is nothing in the cache {reading.cache.label} yet"))
        return reading.cache

    def _leave_out(self, reading: _Reading, why: str) -> None:
        reading.leave()
        self._observer(WarningRaised(f"the cache {reading.source.label} is not used: {why}", "cache-unavailable"))


@dataclass(slots=True)
class _Cache:
    """A place that was read."""

    number: int
    source: CacheSource
    place: CachePlace
    index: CacheIndex
    trust: Trust | None
    label: str = ""
    blobs: dict[str, Layer] = field(default_factory=dict)
    by_content: dict[str, list[CacheEntry]] = field(default_factory=dict)
    _trusted: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.label = self.place.label
        self.blobs = self.index.layers()
        for entry in self.index.entries.values():
            self.by_content.setdefault(entry.content, []).append(entry)

    def trusts(self, entry: CacheEntry) -> bool:
        if self.trust is None:
            return True
        if entry.key not in self._trusted:
            self._trusted[entry.key] = self.trust.trusts(entry)
        return self._trusted[entry.key]

    def found(self, entry: CacheEntry) -> Found:
        return Found(entry, self.label, self.number, self.trust is not None)

    def offer(self, layer: Layer, observer: Observer) -> Offer:
        from engine.blobsources import Offer

        def fetch(sink: Sink) -> None:
            from engine.images.descriptor import Descriptor
            from engine.images.download import Verifier

            verifier = Verifier(Descriptor(layer.media_type, layer.digest, layer.size), self.label, sink, observer)
            self.place.fetch(layer.digest, layer.size, verifier.feed)
            verifier.finish()

        return Offer(fetch, self._reference())

    def _reference(self) -> Reference | None:
        from engine.carry.spec import CacheType

        if self.source.type is not CacheType.REGISTRY:
            return None
        try:
            return Reference.parse(self.source.where)
        except UsageError:
            return None


class _Reading:
    """One source being read, by a thread that nobody must wait for."""

    def __init__(self, number: int, source: CacheSource, open_source: OpenSource, open_trust: OpenTrust | None) -> None:
        self.source = source
        self._number = number
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.cache: _Cache | None = None
        self._open_source = open_source
        self._open_trust = open_trust
        self._lock = threading.Lock()
        self._place: CachePlace | None = None
        self._left = False

    def work(self) -> None:
        try:
            trust = self._trust()
            place = self._open_source(self.source)
            with self._lock:
                self._place = place
            if not self._left:
                self.cache = _Cache(self._number, self.source, place, place.read(), trust)
        except BaseException as error:  # raised again, or told, by who waits
            self.error = error
        self.done.set()
        if self._left:
            self.leave()

    def leave(self) -> None:
        """Close the place, at once or as soon as there is one."""
        self._left = True
        with self._lock:
            place, self._place = self._place, None
        if place is not None:
            place.close()

    def _trust(self) -> Trust | None:
        if not self.source.verify_keys:
            return None
        if self._open_trust is None:
            raise UsageError(
                f"signatures in the cache {self.source.label} cannot be checked here", code="cache-unverifiable"
            )
        return self._open_trust(self.source.verify_keys)
