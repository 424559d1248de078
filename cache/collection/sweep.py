"""Taking away what was chosen."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache.collection.item import Entry, Item
from cache.files import store_errors
from cache.gate import try_lock
from cache.index import Kind
from cache.store import Store


@contextmanager
def unused(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    """Those of the items whose locks are free, locked for as long as the context is held."""
    with ExitStack() as stack:
        yield tuple(item for item in items if item.lock is None or _locked(item.lock, stack))


def take_away(store: Store, items: Iterable[Item], entries: Iterable[Entry], trash: Path) -> None:
    """Drop items and entries of the index: to be called with the gate held alone.

    First the entries go, all at once, then the files, each by one rename into `trash`, a folder of this process. So
    whoever dies on the way leaves entries that are right, and files that nothing speaks of, which the next collection
    finds. Raises StoreError.
    """
    listed = list(items)
    seals = [(Kind.SEAL, str(path.relative_to(store.root))) for item in listed for path in item.paths]
    store.index.drop_all([*entries, *(entry for item in listed for entry in item.entries), *seals])
    with store_errors("cleaning the store"):
        number = 0
        for item in listed:
            for path in item.paths:
                _move(path, trash / str(number))
                number += 1
            for name in item.noted:
                store.uses.forget(name)


def empty(trash: Path) -> None:
    """Give the room back. What cannot be removed now goes with this process's folder."""
    shutil.rmtree(trash, ignore_errors=True)


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Somebody has put this part of the store on another file system.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _locked(path: Path, stack: ExitStack) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    stack.callback(os.close, descriptor)
    return try_lock(descriptor, fcntl.LOCK_EX)
