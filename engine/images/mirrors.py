"""Pulling from mirrors first: which registries are asked for an image, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from engine.events import Note, Observer
from engine.images.policy import RegistrySettings
from engine.images.reference import Reference
from machinefile.errors import TransferError

_T = TypeVar("_T")
_ABSENT = frozenset({"image-not-found", "blob-not-found"})
"""What a mirror that keeps a part only says of the rest."""


class Mirrors:
    """The mirrors of every registry, less those that failed: each is given up once. Threads may share it."""

    def __init__(self, settings: RegistrySettings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._failed: set[str] = set()
        self._lock = threading.Lock()

    def places(self, reference: Reference) -> Iterator[Reference]:
        """The image's names in the mirrors that are left, then its own."""
        for mirror in self._settings.mirrors(reference.registry):
            if mirror.registry not in self._failed:
                repository = f"{mirror.prefix}/{reference.repository}".lstrip("/")
                yield replace(reference, registry=mirror.registry, repository=repository)
        yield reference

    def first(self, reference: Reference, ask: Callable[[Reference], _T]) -> _T:
        """What the first place that can answer says. Raises what `ask` raises for the registry itself."""
        for place in self.places(reference):
            try:
                return ask(place)
            except TransferError as error:
                if place == reference:
                    raise
                self.gave_up(place, reference, error)
        raise AssertionError("unreachable")

    def gave_up(self, place: Reference, reference: Reference, error: TransferError) -> None:
        """A mirror could not answer: one that does not have the image is asked again for the next, others are not."""
        if error.code in _ABSENT:
            return
        with self._lock:
            known = place.registry in self._failed
            self._failed.add(place.registry)
        if not known:
            message = f"the mirror {place.registry} of {reference.registry} is not used: {error.message}"
            self._observer(Note(message))
