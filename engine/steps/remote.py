"""ADD of what is far away, carried out: a file or a repository brought here, then copied as COPY does."""

from __future__ import annotations

from cache.results import Layer
from engine.layerstore import LayerStore
from engine.remote.contexts import subfolder
from engine.remote.remotes import Remotes, repository_of
from engine.steps.copy import Matched
from engine.steps.local import copy_files
from machinefile.copies import is_git
from machinefile.steps import Copy, FromNothing, RemoteSource


def add_remote(operation: RemoteSource, below: tuple[Layer, ...], layers: LayerStore, remotes: Remotes) -> Layer | None:
    """The layer with the file, or with the repository's files; None for a repository without any.

    They belong to root unless --chown says otherwise; a file is 0600; an archive is unpacked with --unpack alone.
    Raises TransferError, UntrustedDataError, HostError, MachinefileError (`source-missing`, `copy-conflict`).
    """
    copy = _as_copy(operation)
    if is_git(operation.url):
        with remotes.checkout(operation) as tree:
            top = subfolder(tree, repository_of(operation).subdir)
            return copy_files(copy, tree, [Matched("", top)], below, layers)
    file = remotes.file(operation)
    return copy_files(copy, file, [Matched(file.name, file.name)], below, layers)


def _as_copy(operation: RemoteSource) -> Copy:
    return Copy(
        origin=FromNothing(),
        sources=(),
        destination=operation.destination,
        into_directory=operation.into_directory,
        owner=operation.owner,
        mode=operation.mode,
        link=operation.link,
        exclude=operation.exclude,
        unpack=operation.unpack and not is_git(operation.url),
    )
