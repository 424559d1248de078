"""What ADD takes from afar: pinned before keys are computed, brought when a step needs it.

Pinning a file asks its server, with the ETag and the date of the last time, and fetches the content only if it
changed; the first time it has to fetch, for its digest is what the key is made of. With --checksum nothing is asked.
Pinning a repository asks its server for the commit and fetches nothing; a commit that is named in full is believed.
So `mbuild plan` does too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO

from engine.layers.entry import Entry, EntryType
from engine.layers.limits import LayerLimits
from engine.remote.giturl import GitUrl, is_commit, parse_git_url
from engine.remote.weburl import file_name
from machinefile.copies import is_git
from machinefile.errors import MachinefileError, MbuildError, UntrustedDataError
from machinefile.steps import BuildGraph, RemoteSource, Step
from machinefile.values import dataclass

if TYPE_CHECKING:
    # Most builds have no remote sources.
    from cache.keys import Value
    from cache.store import Store
    from engine.events import Observer
    from engine.images.policy import TransferPolicy
    from engine.pins import Pins
    from engine.remote.checkout import Checkout
    from engine.remote.git import Git
    from engine.remote.repository import Found
    from engine.remote.web import Web

FILE_MODE = 0o600
"""Source: BuildKit's HTTP source, and Docker's documentation of ADD."""


def record_fields(operation: RemoteSource) -> tuple[tuple[str, Value], ...]:
    """What decides a remote source's files: never where they come from, unless the files say so themselves."""
    if not is_git(operation.url):
        return (("kind", "file"), ("content", operation.pinned), ("name", file_name(operation.url)))
    url = repository_of(operation)
    keep = keeps_git_dir(operation, url)
    return (
        ("kind", "git"),
        ("content", operation.pinned),
        ("subdir", url.subdir),
        ("submodules", url.submodules),
        ("git_dir", (url.shown, url.ref) if keep else None),
    )


def repository_of(operation: RemoteSource) -> GitUrl:
    """The repository of an ADD. Raises MachinefileError (`bad-git-url`, `bad-checksum`, `bad-keep-git-dir`)."""
    url = parse_git_url(operation.url)
    if operation.keep_git_dir and url.keep_git_dir is False:
        message, hint = "--keep-git-dir and keep-git-dir=false in the address disagree", "leave one of them out"
        raise MachinefileError.one(message, code="bad-keep-git-dir", hint=hint)
    checksum = operation.checksum
    if not checksum:
        return url
    if ":" in checksum:
        message, hint = f"--checksum can't be {checksum}", "of a git repository it is the commit, 40 hexadecimal digits"
        raise MachinefileError.one(message, code="bad-checksum", hint=hint)
    if url.checksum and url.checksum != checksum:
        message = f"--checksum is {checksum}, and the address says {url.checksum}"
        raise MachinefileError.one(message, code="bad-checksum", hint="leave one of them out")
    return replace(url, checksum=checksum, ref=url.ref or (checksum if is_commit(checksum) else ""))


def keeps_git_dir(operation: RemoteSource, url: GitUrl) -> bool:
    """Whether .git comes along; a part of a repository has none."""
    return not url.subdir and (operation.keep_git_dir or bool(url.keep_git_dir))


@dataclass(frozen=True, slots=True)
class FileTree:
    """A tree that holds a single file, the blob of a download."""

    name: str
    size: int
    store: Store
    blob: str
    modified: int = 0
    """When its server says that it was changed last: seconds since 1970."""

    def entry(self, path: str) -> Entry | None:
        """What stands at a path."""
        if not path:
            return Entry("", EntryType.DIRECTORY, 0o755)
        return (
            Entry(path, EntryType.FILE, FILE_MODE, size=self.size, mtime=self.modified) if path == self.name else None
        )

    def children(self, path: str) -> tuple[str, ...]:
        """The names in a directory."""
        return () if path else (self.name,)

    def open(self, path: str) -> BinaryIO:
        """Open the file for reading."""
        return self.store.blobs.open(self.blob)

    def digest(self, path: str) -> str:
        """The sha256 of the file's content, in hex."""
        return self.blob.removeprefix("sha256:")

    def inode(self, path: str) -> tuple[int, int] | None:
        """None: the file has one name."""
        return None


class Remotes:
    """The remote sources of one build."""

    def __init__(
        self,
        store: Store,
        observer: Observer,
        cancelled: threading.Event,
        *,
        limits: LayerLimits | None = None,
        policy: TransferPolicy | None = None,
        pins: Pins | None = None,
    ) -> None:
        self._store = store
        self._pins = pins
        self._limits = limits or LayerLimits.from_environment()
        self._cancelled = cancelled
        self._observer = observer
        self._policy = policy
        self._files: dict[str, str] = {}
        self._commits: dict[GitUrl, Found] = {}

    @cached_property
    def _web(self) -> Web:
        from engine.remote.web import Web

        return Web(self._store, self._observer, self._cancelled, largest=self._limits.max_bytes, policy=self._policy)

    def pinned(self, graph: BuildGraph) -> BuildGraph:
        """The graph with every remote source pinned to what it is now.

        Raises TransferError, UntrustedDataError, HostError (`program-missing`: git), MachinefileError, with the place
        of the ADD.
        """
        return replace(graph, steps=tuple(map(self._pinned, graph.steps)))

    def _pinned(self, step: Step) -> Step:
        if not isinstance(step.operation, RemoteSource):
            return step
        try:
            return replace(step, operation=replace(step.operation, pinned=self.pin(step.operation)))
        except MbuildError as error:
            error.span = error.span or step.span
            if isinstance(error, MachinefileError):
                error.problems = tuple(replace(one, span=one.span or step.span) for one in error.problems)
            raise

    def pin(self, operation: RemoteSource) -> str:
        """What a source is now: a digest, or a commit."""
        if is_git(operation.url):
            url = repository_of(operation)
            return url.checksum if is_commit(url.checksum) else self.find(url).commit
        file_name(operation.url)  # an address that is none is refused before anything else
        if operation.checksum:
            return operation.checksum
        if self._pins is not None and (checksum := self._pins.file(operation.url)):
            return checksum
        if operation.url not in self._files:
            self._files[operation.url] = self._web.pin(operation.url)
        return self._files[operation.url]

    def file(self, operation: RemoteSource) -> FileTree:
        """The file of a pinned source, fetched unless the store has it. Raises as `pinned`."""
        try:
            blob = self._web.bring(operation.url, operation.pinned)
        except UntrustedDataError as error:
            if self._pins is None or operation.checksum or not self._pins.has_file(operation.url):
                raise
            raise self._pins.explain(error, operation.url) from error
        size = self._store.blobs.path(blob).stat().st_size
        return FileTree(file_name(operation.url), size, self._store, blob, self._web.modified(operation.url, blob))

    @contextmanager
    def checkout(self, operation: RemoteSource) -> Iterator[Checkout]:
        """The files of a pinned repository, for as long as the context is held. Raises as `pinned`."""
        from engine.remote.repository import Found

        url = repository_of(operation)
        found = self.find(url)
        if not found.matches(operation.pinned):
            found = Found(operation.pinned)  # the name was moved since: the commit counts
        tree = self._check_out(url, found, keep_git_dir=keeps_git_dir(operation, url))
        try:
            yield tree
        finally:
            tree.remove()

    def context(self, address: str) -> Checkout:
        """A repository as a named context, there until the store is closed. Raises as `pinned`."""
        url = parse_git_url(address)
        return self._check_out(url, self.find(url), keep_git_dir=False)

    def known(self, url: GitUrl) -> Found | None:
        """What an address was found to mean; None where nobody asked. Asks nobody."""
        return self._commits.get(url)

    def find(self, url: GitUrl) -> Found:
        """Which commit an address means, by the lock file, else by its server. Raises as `pinned`."""
        from engine.remote.repository import find_commit

        if url not in self._commits:
            pinned = self._pins.repository(url) if self._pins is not None else None
            self._commits[url] = pinned or find_commit(self._git(), url)
        return self._commits[url]

    def _check_out(self, url: GitUrl, found: Found, *, keep_git_dir: bool) -> Checkout:
        from engine.remote.repository import Repository

        return Repository(self._git(), self._store.folder(), self._limits).checkout(
            url, found, keep_git_dir=keep_git_dir
        )

    def _git(self) -> Git:
        from engine.remote.git import Git

        return Git(self._store.folder(), self._cancelled, largest=self._limits.max_bytes)
