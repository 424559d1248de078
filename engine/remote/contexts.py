"""--build-context NAME=...: folders, repositories and images that a Machinefile may name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cache.contexts import KnownContexts
from engine.context import BuildContext, Context
from engine.images.reference import Reference, parse_reference
from engine.layers.entry import Entry, EntryType
from engine.remote.giturl import parse_git_url
from engine.steps.tree import LinkLoopError, resolve
from machinefile.copies import is_git
from machinefile.errors import MachinefileError, UsageError
from machinefile.ignore import IgnoreRules
from machinefile.values import dataclass

if TYPE_CHECKING:
    from engine.remote.checkout import Checkout
    from engine.remote.remotes import Remotes

_IMAGES = ("docker-image:", "oci-layout:", "docker-archive:")
_RESERVED = frozenset({"scratch", "context"})


class ContextKind(Enum):
    """What a named context is."""

    FOLDER = "folder"
    REPOSITORY = "repository"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class NamedContext:
    """One --build-context."""

    name: str
    """As Docker shortens it: lower case, without the default registry and without `:latest`."""
    kind: ContextKind
    value: str
    """A path, an address, or how FROM would name the image."""


def parse_context(text: str) -> NamedContext:
    """Read `NAME=VALUE`. Raises UsageError: `usage`, `context-unsupported`, `context-missing`, `reference-invalid`."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(
            f"--build-context {text}: this is not NAME=VALUE",
            code="usage",
            hint="for example --build-context assets=../assets or --build-context alpine=docker-image://alpine:3.20",
        )
    name = _short(name)
    if value.startswith(_IMAGES):
        parse_reference(value)
        return NamedContext(name, ContextKind.IMAGE, value)
    if is_git(value):
        try:
            parse_git_url(value)
        except MachinefileError as error:
            raise UsageError(f"--build-context {name}: {error.message}", code=error.code, hint=error.hint) from error
        return NamedContext(name, ContextKind.REPOSITORY, value)
    if "://" in value or value.startswith(("target:", "input:")):
        raise UsageError(
            f"--build-context {name}={value} is not supported",
            code="context-unsupported",
            hint="name a folder, a git repository (https://....git), docker-image://NAME or oci-layout://PATH:TAG",
        )
    if not os.path.isdir(value):
        raise UsageError(
            f"--build-context {name}: {value} is not a folder",
            code="context-missing",
            hint="check the path; an image is named by docker-image://NAME",
        )
    return NamedContext(name, ContextKind.FOLDER, value)


def image_names(contexts: Iterable[NamedContext]) -> Mapping[str, str]:
    """How the resolved Machinefile names the images among contexts, and what FROM would say in place of that."""
    return {f"context:{one.name}": one.value for one in contexts if one.kind is ContextKind.IMAGE}


def open_contexts(
    contexts: Iterable[NamedContext], remotes: Remotes, known: KnownContexts | None = None, *, git_modes: bool = False
) -> dict[str, BuildContext]:
    """The files of the contexts that have some, by name. A folder's .dockerignore counts, and what is `known` of its
    files; with `git_modes` they have the modes that git knows. A repository is fetched when a step first looks into it.

    Raises UsageError, MachinefileError (a bad .dockerignore).
    """
    found: dict[str, BuildContext] = {}
    for one in contexts:
        if one.kind is ContextKind.FOLDER:
            folder = Path(one.value)
            digests = known.of(folder) if known is not None else None
            found[one.name] = Context(folder, _ignore_rules(folder), digests, git_modes=git_modes)
        elif one.kind is ContextKind.REPOSITORY:
            found[one.name] = RepositoryContext(one, remotes.context)
    return found


class RepositoryContext:
    """A repository, or a folder in one, that is fetched when somebody first looks into it."""

    def __init__(self, context: NamedContext, fetch: Callable[[str], Checkout]) -> None:
        self._context = context
        self._fetch = fetch
        self._tree: Checkout | None = None
        self._top = ""

    def entry(self, path: str) -> Entry | None:
        """What stands at a path, no link followed."""
        tree, inside = self._find(path)
        return tree.entry(inside)

    def children(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted by their bytes."""
        tree, inside = self._find(path)
        return tree.children(inside)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        tree, inside = self._find(path)
        return tree.open(inside)

    def digest(self, path: str) -> str:
        """The sha256 of a file's content, in hex."""
        tree, inside = self._find(path)
        return tree.digest(inside)

    def hash_all(self, paths: Sequence[str]) -> None:
        """Hash several files side by side."""
        tree, _ = self._find("")
        tree.hash_all([self._find(path)[1] for path in paths])

    def inode(self, path: str) -> tuple[int, int] | None:
        """None: git knows no second names."""
        return None

    def check(self, path: str) -> None:
        """Nobody edits a checkout in the store."""

    def _find(self, path: str) -> tuple[Checkout, str]:
        if self._tree is None:
            self._tree = self._fetch(self._context.value)
            self._top = subfolder(self._tree, parse_git_url(self._context.value).subdir)
        return self._tree, "/".join(filter(None, (self._top, path)))


def subfolder(tree: Checkout, subdir: str) -> str:
    """Where a folder of a repository is, links followed. Raises MachinefileError (`source-missing`)."""
    try:
        path = resolve(tree.entry, subdir)
    except LinkLoopError:
        path = subdir
    entry = tree.entry(path)
    if entry is None or entry.type is not EntryType.DIRECTORY:
        raise MachinefileError.one(
            f"the repository has no folder {subdir!r}",
            code="source-missing",
            hint="check what stands after the colon, or in subdir=",
        )
    return path


def _short(name: str) -> str:
    try:
        short = Reference.parse(name.lower()).short.removesuffix(":latest")
    except UsageError as error:
        raise UsageError(
            f"--build-context: {name!r} cannot name a context",
            code="usage",
            hint="a name is one of a stage or of an image: lower-case letters, digits, '.', '_', '-', '/'",
        ) from error
    if short in _RESERVED:
        raise UsageError(f"--build-context: {name!r} is a name of its own and can't be given away", code="usage")
    return short


def _ignore_rules(folder: Path) -> IgnoreRules:
    path = folder / ".dockerignore"
    if not os.path.isfile(path):
        return IgnoreRules()
    try:
        return IgnoreRules.parse(path.read_text("utf-8", "surrogateescape"), str(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", code="ignore-unreadable") from error
