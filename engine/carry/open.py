"""Opens what --cache-from and --cache-to name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cache.carry.place import CachePlace
from cache.store import Store
from engine.carry.export import OpenTarget
from engine.carry.spec import CacheSource, CacheTarget, CacheType
from engine.events import Observer
from machinefile.errors import UsageError
from machinefile.values import dataclass

if TYPE_CHECKING:
    from cache.carry.folder import FolderCache
    from engine.images.registry import RegistryClient


@dataclass(frozen=True, slots=True)
class PlaceOpener:
    """What it takes to reach the places. Opening one asks nobody anything yet, a few object stores excepted."""

    store: Store
    client: Callable[[], RegistryClient]
    """Made when a registry is asked."""
    observer: Observer
    cancelled: threading.Event

    def source(self, source: CacheSource) -> CachePlace:
        """Raises UsageError, HostError for a package that is not there, TransferError for a server that is not."""
        return self._open(source)

    def target(self, target: CacheTarget) -> OpenTarget:
        """Raises as `source`, and UsageError (`signing-key`), HostError for a folder that cannot be made or is no
        cache's: it is made now."""
        signer = None
        if target.sign_key is not None:
            from cache.carry.signing import Signer

            signer = Signer.from_file(target.sign_key)
        if target.type is not CacheType.LOCAL:
            return OpenTarget(target, self._open(target), signer)
        folder = self._folder(target)
        folder.prepare()
        return OpenTarget(target, folder, signer)

    def _folder(self, named: CacheSource | CacheTarget) -> FolderCache:
        from cache.carry.folder import FolderCache

        return FolderCache(Path(named.where), dict(named.options).get("tag", ""), self.cancelled)

    def _open(self, named: CacheSource | CacheTarget) -> CachePlace:
        options = dict(named.options)
        match named.type:
            case CacheType.REGISTRY:
                from engine.carry.registry import RegistryCache
                from engine.images.reference import Reference
                from engine.origins import origins

                reference = Reference.parse(named.where)
                known = origins(self.store, reference.registry)
                return RegistryCache(self.client, reference, self.observer, self.cancelled, origins=known)
            case CacheType.LOCAL:
                return self._folder(named)
            case CacheType.FSSPEC:
                from cache.carry.objects import ObjectCache

                return ObjectCache(named.where, options, self.cancelled)
            case CacheType.INLINE:
                raise UsageError("a cache inside an image has no place of its own", code="cache-unsupported")
