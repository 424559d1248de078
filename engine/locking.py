"""Making a lock file: what everything that a Machinefile names stands for now, or stood for when it was pinned."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cache.store import Store
from engine.bases import Bases
from engine.events import Observer
from engine.images.reference import Reference, parse_reference
from engine.images.source import ImageSource
from engine.locksurvey import Survey
from engine.pins import Lock, Pins, image_name, is_settled
from engine.remote.contexts import ContextKind, image_names
from engine.remote.giturl import GitUrl, parse_git_url
from engine.remote.remotes import Remotes, repository_of
from engine.remote.weburl import without_password
from engine.request import BuildRequest
from machinefile.copies import is_git
from machinefile.errors import UsageError
from machinefile.lockfile import FilePin, ImagePin, Lockfile, Pin, RepositoryPin, label_of
from machinefile.platform import Platform
from machinefile.steps import BaseReference, RemoteSource
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Which pins are to be made anew: all, or those that are named."""

    names: tuple[str, ...] = ()
    """As --upgrade takes them; none for all."""

    def means(self, pin: Pin, named: Mapping[str, str]) -> bool:
        """Whether a pin is among them; `named` are the images behind --build-context."""
        return not self.names or any(_names(word, pin, named) for word in self.names)


def make_lock(
    request: BuildRequest,
    store: Store,
    source: ImageSource,
    observer: Observer,
    cancelled: threading.Event,
    upgrade: Upgrade | None = None,
) -> Lockfile:
    """The lock file for all stages and the platforms of the request: pins that the old one has stay but for those to
    upgrade, what it lacks is added, what nothing names any more is left out. Fetches the files that it has to.

    Raises MachinefileError, UsageError (`lock-unknown-name` among others), TransferError.
    """
    old = request.lock or Lock("the lock file", Lockfile())
    named = image_names(request.contexts)
    kept = old.file
    if upgrade is not None:
        kept = Lockfile(
            kept.platforms,
            tuple(pin for pin in kept.images if not upgrade.means(pin, named)),
            tuple(pin for pin in kept.files if not upgrade.means(pin, named)),
            tuple(pin for pin in kept.repositories if not upgrade.means(pin, named)),
        )
    pins = Pins(replace(old, file=kept), named)
    bases = Bases(store, source, observer, cancelled, named, pins)
    gatherer = _Gatherer(bases, Remotes(store, observer, cancelled, pins=pins), kept, named)
    for options in request.for_each_platform().values():
        survey = Survey(bases.lookup)
        survey.take(request.machinefile, options)
        gatherer.take(survey)
    for context in request.contexts:
        if context.kind is ContextKind.REPOSITORY:
            gatherer.take_repository(parse_git_url(context.value))
    platforms = tuple(sorted(request.for_each_platform()))
    new = gatherer.lock(platforms)
    if upgrade is not None:
        _check_names(upgrade.names, (*old.file.pins, *new.pins), named)
    return new


class _Gatherer:
    """Collects the pins of what surveys saw."""

    def __init__(self, bases: Bases, remotes: Remotes, kept: Lockfile, named: Mapping[str, str]) -> None:
        self._bases = bases
        self._remotes = remotes
        self._named = named
        self._kept = {(pin.name, pin.platform): pin for pin in kept.images}
        self._pins: dict[Pin, None] = {}

    def take(self, survey: Survey) -> None:
        """Pin what a survey saw."""
        for reference in survey.images:
            self._take_image(reference)
        for source in survey.sources:
            self._take_source(source)

    def take_repository(self, url: GitUrl) -> None:
        """Pin a branch or tag."""
        if not is_settled(url):
            found = self._remotes.find(url)
            self._pins[RepositoryPin(url.shown, url.ref, found.commit, found.ref, found.tag)] = None

    def lock(self, platforms: Sequence[Platform]) -> Lockfile:
        """All of them."""
        return Lockfile(
            tuple(platforms),
            tuple(pin for pin in self._pins if isinstance(pin, ImagePin)),
            tuple(pin for pin in self._pins if isinstance(pin, FilePin)),
            tuple(pin for pin in self._pins if isinstance(pin, RepositoryPin)),
        )

    def _take_image(self, reference: BaseReference) -> None:
        name = image_name(self._named.get(reference.reference, reference.reference))
        image = self._bases.get(reference).image
        if not name or image is None:
            return
        pin = self._kept.get((name, reference.platform))
        if pin is None:
            index = image.root if image.root != image.digest else ""
            pin = ImagePin(name, reference.platform, image.digest, index)
        self._pins[pin] = None

    def _take_source(self, source: RemoteSource) -> None:
        if is_git(source.url):
            self.take_repository(repository_of(source))
        elif not source.checksum:
            self._pins[FilePin(without_password(source.url), self._remotes.pin(source))] = None


def _names(word: str, pin: Pin, named: Mapping[str, str]) -> bool:
    if not isinstance(pin, ImagePin):
        return word in (pin.url, label_of(pin))
    if word == pin.name or image_name(named.get(f"context:{word}", word)) == pin.name:
        return True
    parsed = parse_reference(pin.name)
    if not isinstance(parsed, Reference):
        return False
    bare = replace(parsed, tag="", digest="")
    return word in (bare.short, str(bare))


def _check_names(names: Iterable[str], pins: Iterable[Pin], named: Mapping[str, str]) -> None:
    known = tuple(pins)
    for word in names:
        if not any(_names(word, pin, named) for pin in known):
            listed = ", ".join(dict.fromkeys(pin.name if isinstance(pin, ImagePin) else label_of(pin) for pin in known))
            raise UsageError(
                f"--upgrade {word}: the file names nothing like that",
                code="lock-unknown-name",
                hint=f"it names {listed}" if listed else "it names nothing that needs a pin",
            )
