"""What a build does with a lock file: names stand for what they are pinned to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property

from engine.images.image import ResolvedImage
from engine.images.reference import ArchiveReference, LayoutReference, Reference, parse_reference
from engine.remote.contexts import ContextKind, NamedContext, image_names
from engine.remote.giturl import GitUrl, is_commit, parse_git_url
from engine.remote.remotes import repository_of
from engine.remote.repository import Found
from engine.remote.weburl import without_password
from machinefile.copies import is_git
from machinefile.errors import MachinefileError, TransferError, UntrustedDataError, UsageError
from machinefile.lockfile import FilePin, ImagePin, Lockfile, RepositoryPin
from machinefile.platform import Platform
from machinefile.source import Span
from machinefile.steps import BaseReference, BuildGraph, From, RemoteSource, Step
from machinefile.values import dataclass

_GONE = ("image-not-found", "blob-not-found")


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file that was read."""

    path: str
    """For messages."""
    file: Lockfile
    local: frozenset[str] | None = None
    """The images of this machine (`oci-layout:...`, `docker-archive:...`) that may be read, where not any may."""


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a build needs and the lock file has no pin for."""

    what: str
    span: Span | None = None


@dataclass(frozen=True)
class Pins:
    """The pins of a lock file, as the images, the files and the repositories of a build are asked for.

    A name that is exact itself (a digest, a checksum, a whole commit) needs no pin.
    """

    lock: Lock
    named: Mapping[str, str] = field(default_factory=dict)
    """References that stand for others: see engine.bases.Bases."""

    @classmethod
    def of(cls, lock: Lock, contexts: Iterable[NamedContext]) -> Pins:
        """The pins for a build with these --build-contexts."""
        return cls(lock, image_names(contexts))

    def has_image(self, reference: BaseReference) -> bool:
        """Whether it is settled what a base's name stands for."""
        name = image_name(self._written(reference))
        return not name or self._image(name, reference.platform) is not None

    def resolve(self, reference: BaseReference, find: Callable[[BaseReference], ResolvedImage]) -> ResolvedImage:
        """Find the pinned image; for a name without a pin what `find` gives.

        Raises what `find` raises, TransferError `lock-image-gone`, UntrustedDataError `lock-mismatch` for an image
        of this machine that is another than the pinned one, UsageError `image-not-allowed` for one that may not be
        read.
        """
        asked = replace(reference, reference=self._written(reference))
        name = image_name(asked.reference)
        pin = self._image(name, reference.platform) if name else None
        parsed = parse_reference(asked.reference)
        self._check_local(parsed)
        if pin is None:
            return find(asked)
        wanted = pin.digest if pin.platform == reference.platform else pin.index
        try:
            if isinstance(parsed, Reference):
                return find(replace(asked, reference=str(parsed.pinned(wanted))))
            image = find(asked)
        except TransferError as error:
            if error.code not in _GONE:
                raise
            raise TransferError(
                f"{self.lock.path} pins {name} to {wanted}, which is no more: {error.message}",
                code="lock-image-gone",
                hint=f"mbuild lock --upgrade {name} pins what is there now",
            ) from error
        if wanted not in (image.digest, image.root):
            raise self._mismatch(name, wanted, image.digest)
        return image

    def _check_local(self, parsed: object) -> None:
        local = isinstance(parsed, LayoutReference | ArchiveReference)
        if local and self.lock.local is not None and str(parsed) not in self.lock.local:
            raise UsageError(
                f"{self.lock.path} takes an image of this machine, {parsed}, which is not allowed here",
                code="image-not-allowed",
                hint=f"--allow-image {parsed} allows it, if that image may be in the build",
            )

    def has_file(self, url: str) -> bool:
        """Whether a file of the web has a pin."""
        return without_password(url) in self._files

    def file(self, url: str) -> str:
        """The checksum of a file; empty without a pin."""
        pin = self._files.get(without_password(url))
        return pin.checksum if pin is not None else ""

    def repository(self, url: GitUrl) -> Found | None:
        """What a branch or tag stands for. Raises UntrustedDataError `lock-mismatch` where the file's own checksum
        says otherwise."""
        pin = self._repositories.get((url.shown, url.ref))
        if pin is None or is_commit(url.ref):
            return None
        found = Found(pin.commit, pin.name, pin.tag)
        if url.checksum and not found.matches(url.checksum):
            raise self._mismatch(f"{url.shown}#{url.ref}", found.commit, url.checksum)
        return found

    def explain(self, error: UntrustedDataError, url: str) -> UntrustedDataError:
        """The error about content that is not the pinned one, in words that name the lock file."""
        return UntrustedDataError(
            f"{error.message}, which is pinned in {self.lock.path}",
            code=error.code,
            hint="what is there has changed, or was tampered with; if the change is meant: "
            f"mbuild lock --upgrade {without_password(url)}",
            span=error.span,
        )

    def lacking(self, graphs: Sequence[BuildGraph], contexts: Iterable[NamedContext]) -> tuple[Lacking, ...]:
        """What a build needs and has no pin, each once, in the order of the file."""
        found: dict[str, Lacking] = {}
        for graph in graphs:
            for step in graph.steps:
                for one in self.lacking_of(step):
                    found.setdefault(one.what, one)
        for context in contexts:
            if context.kind is ContextKind.REPOSITORY:
                url = parse_git_url(context.value)
                if not self._settled(url):
                    found.setdefault(context.name, Lacking(f"the context {context.name}, {shown_repository(url)}"))
        return tuple(found.values())

    def lacking_of(self, step: Step) -> Iterator[Lacking]:
        """What a step needs and has no pin."""
        match step.operation:
            case From(base) if not self.has_image(base):
                yield Lacking(f"{image_name(self._written(base))} for {base.platform}", step.span)
            case RemoteSource() as source if is_git(source.url):
                url = _repository(source)
                if url is not None and not self._settled(url):
                    yield Lacking(shown_repository(url), step.span)
            case RemoteSource() as source if not source.checksum and not self.has_file(source.url):
                yield Lacking(without_password(source.url), step.span)

    def _settled(self, url: GitUrl) -> bool:
        return is_settled(url) or (url.shown, url.ref) in self._repositories

    def _written(self, reference: BaseReference) -> str:
        return self.named.get(reference.reference, reference.reference)

    def _image(self, name: str, platform: Platform) -> ImagePin | None:
        """The pin for the platform, or another of the name whose index has this platform too."""
        pins = self._images.get(name, {})
        return pins.get(platform) or next((pins[one] for one in sorted(pins) if pins[one].index), None)

    def _mismatch(self, name: str, pinned: str, actual: str) -> UntrustedDataError:
        return UntrustedDataError(
            f"{self.lock.path} pins {name} to {pinned}; it is {actual}",
            code="lock-mismatch",
            hint=f"if the change is meant: mbuild lock --upgrade {name}",
        )

    @cached_property
    def _images(self) -> Mapping[str, Mapping[Platform, ImagePin]]:
        found: dict[str, dict[Platform, ImagePin]] = {}
        for pin in self.lock.file.images:
            found.setdefault(pin.name, {})[pin.platform] = pin
        return found

    @cached_property
    def _files(self) -> Mapping[str, FilePin]:
        return {pin.url: pin for pin in self.lock.file.files}

    @cached_property
    def _repositories(self) -> Mapping[tuple[str, str], RepositoryPin]:
        return {(pin.url, pin.ref): pin for pin in self.lock.file.repositories}


def image_name(text: str) -> str:
    """Under what a lock file has an image; empty for what needs no pin: scratch, a name with a digest, and what is no
    name at all."""
    try:
        match parse_reference(text):
            case Reference() | LayoutReference() as reference if reference.digest:
                return ""
            case Reference() as reference:
                return reference.short
            case LayoutReference() | ArchiveReference() as local:
                return str(local)
    except UsageError:
        pass  # who asks for it tells
    return ""


def is_settled(url: GitUrl) -> bool:
    """Whether an address names its commit itself."""
    return is_commit(url.ref) or is_commit(url.checksum)


def shown_repository(url: GitUrl) -> str:
    """An address for messages, as --upgrade takes it."""
    return f"{url.shown}#{url.ref}" if url.ref else url.shown


def _repository(source: RemoteSource) -> GitUrl | None:
    try:
        return repository_of(source)
    except MachinefileError:
        return None  # pinning tells
