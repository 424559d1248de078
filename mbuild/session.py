"""What the commands share: the store, the sources of images, the hypervisor, put together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cache.blobs import SMALL
from cache.reserve import is_full, keep_reserve, make_room, release_reserve, retake_reserve
from cache.spans import span
from cache.store import Store, default_folder
from engine.events import Note, Observer
from machinefile.errors import StoreError
from mbuild.parses import remember

if TYPE_CHECKING:
    from cache.carry.place import CachePlace
    from engine.carry.export import OpenTarget
    from engine.carry.open import PlaceOpener
    from engine.carry.sources import Trust
    from engine.carry.spec import CacheSource, CacheTarget
    from engine.driver import Driver
    from engine.images.registry_flags import RegistryFlags
    from engine.images.source import ImageSources
    from engine.images.upload import Open
    from engine.machines.make import MachineMaker
    from engine.output.index import Built
    from engine.vm.execution import Sandbox
    from machinefile.imageconfig import Pairs


def open_store(folder: str) -> Store:
    """The store that --cache-dir names, or the default one."""
    with span("open the store", "phase"):
        store = Store(store_folder(folder))
        keep_reserve(store.root)
        return store


@contextmanager
def open_store_to_clean(folder: str, *, aside: bool = False) -> Iterator[Store]:
    """The same for who makes room in it, or looks where there is some: it opens on a full disk too. `aside`: older
    stores that were set aside may go for that."""
    root = store_folder(folder)
    if not release_reserve(root) and is_full(root):
        from engine.vm.runfolder import sweep

        make_room(root, aside=aside)
        sweep(root / "vm" / "run")
    try:
        with Store(root) as store:
            yield store
    finally:
        retake_reserve(root)


def store_folder(folder: str) -> Path:
    """Where that store is."""
    return Path(folder) if folder else default_folder()


def make_sandbox(store: Store, observer: Observer) -> Sandbox:
    """The hypervisor of this machine."""
    with span("import", "vm"):
        from engine.vm.sandbox import QemuSandbox

    return QemuSandbox(store.vm_folder, observer=observer)


@contextmanager
def open_images(
    cache_dir: str, observer: Observer, cancelled: threading.Event, flags: RegistryFlags
) -> Iterator[tuple[Store, ImageSources]]:
    """The store, and where images come from and go to."""
    from engine.images.source import ImageSources

    with open_store(cache_dir) as store:
        if store.set_aside is not None:
            where = store.set_aside
            observer(Note(f"the store of an older mbuild is in {where} now; mbuild cache prune removes it"))

        def stored(digest: str, size: int) -> bytes | None:
            try:
                return store.blobs.read(digest, min(size or SMALL, SMALL))
            except StoreError:  # missing, damaged and removed, or something else: it comes anew
                return None

        with ImageSources(Path.cwd(), observer=observer, stored=stored, flags=flags, cancelled=cancelled) as source:
            yield store, source


@contextmanager
def open_driver(
    cache_dir: str, observer: Observer, cancelled: threading.Event, flags: RegistryFlags
) -> Iterator[Driver]:
    """A driver over the store and the network of this machine."""
    with span("import", "phase"):
        from engine.driver import Driver
        from engine.images.reference import Reference

    with open_images(cache_dir, observer, cancelled, flags) as (store, source):

        def push_all(built: Built, names: Sequence[str], open_blob: Open, check: Callable[[], object]) -> None:
            from engine.imagestore import push

            for name in names:
                to = Reference.parse(name)
                push(store, source.registry(), built.digest, to, observer, cancelled, open_blob, check)

        def machines() -> MachineMaker:
            from engine.machines.make import MachineMaker
            from engine.vm.qemu import QemuHypervisor

            return MachineMaker(store, QemuHypervisor(store.vm_folder, observer), observer, cancelled)

        def open_source(named: CacheSource) -> CachePlace:
            return _opener(store, source, observer, cancelled).source(named)

        def open_target(named: CacheTarget) -> OpenTarget:
            return _opener(store, source, observer, cancelled).target(named)

        driver = Driver(
            store,
            source,
            lambda: make_sandbox(store, observer),
            observer,
            cancelled,
            push_all,
            machines,
            open_source=open_source,
            open_trust=_trust,
            open_target=open_target,
            versions=lambda: _versions(store),
        )
        try:
            yield driver
        finally:
            remember(store)


def _opener(store: Store, source: ImageSources, observer: Observer, cancelled: threading.Event) -> PlaceOpener:
    from engine.carry.open import PlaceOpener

    return PlaceOpener(store, source.registry, observer, cancelled)


def _versions(store: Store) -> Pairs:
    from engine.vm.versions import versions

    return versions(store.vm_folder)


def _trust(keys: Sequence[Path]) -> Trust:
    from cache.carry.signing import Verifier

    return Verifier.from_files(keys)
