"""What lies in the store's folders beside the blobs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cache.collection.item import Item, Sort, Standing, diff, machine
from cache.collection.sizes import DiskUsage, Found
from cache.store import Store
from engine.layers.layerdisk import disk_id
from engine.machines.library import MANIFEST

_DAY = 86_400.0
_TEMPLATE_AGE = 14 * _DAY
"""Seconds: a template that was not used for so long is one of an older kernel, QEMU or mbuild."""
_CHECKED_AGE = 30 * _DAY
"""Seconds: what is known of a machine elsewhere is found out again after that."""
_ABOUT_BYTES = 64 << 10


class Places:
    """Lists what is in each folder. A part of the store that is a link to elsewhere is counted and never touched:
    others may use it."""

    def __init__(self, store: Store, usage: DiskUsage, times: Mapping[str, float], now: float) -> None:
        """`times`: Uses.times(); `now`: seconds since 1970."""
        self._store = store
        self._root = store.root
        self._usage = usage
        self._times = times
        self._now = now

    def items(self, disks: Mapping[str, str], diffs: Iterable[str]) -> Iterator[Item]:
        """Everything. `disks` gives the diff id of a disk by its name, as far as it was written down; `diffs` are those
        of all layers that something keeps."""
        yield from self._listings()
        named = {f"{disk_id(diff_id, {})}.squashfs": diff_id for diff_id in diffs}
        yield from self._disks({**named, **disks})
        yield from self._machines()
        yield from self._templates()
        yield from self._mounts()
        yield from self._contexts()
        yield from self._aside()
        yield from self._rest()

    def _listings(self) -> Iterator[Item]:
        for found in self._children("layers"):
            diff_id = found.path.name.replace("-", ":", 1)
            yield self._item(Sort.LISTING, diff_id, found, standing=Standing.CACHED, tied=diff(diff_id))

    def _disks(self, named: Mapping[str, str]) -> Iterator[Item]:
        for found in self._children("disks"):
            name = found.path.name
            tied = diff(named[name]) if name in named else ""
            yield self._item(Sort.DISK, name, found, title=named.get(name, ""), standing=Standing.CACHED, tied=tied)

    def _machines(self) -> Iterator[Item]:
        for found in self._children("machines"):
            if (found.path / MANIFEST).exists():
                yield self._item(Sort.MACHINE, found.path.name, found, tied=machine(found.path.name))
            elif found.path.name != "checked":
                yield self._item(Sort.MACHINE, found.path.name, found, standing=Standing.SPENT)
        for found in self._children("machines/checked"):
            if self._now - found.written > _CHECKED_AGE:
                yield self._item(Sort.OTHER, f"machines/checked/{found.path.name}", found, standing=Standing.SPENT)

    def _templates(self) -> Iterator[Item]:
        for found in self._children("vm/templates"):
            if not found.path.is_dir():
                continue
            lock = found.path.with_suffix(".lock")
            used = max(_written(lock), _written(found.path))
            spent = found.path.suffix == ".new" or self._now - used > _TEMPLATE_AGE
            yield self._item(
                Sort.TEMPLATE,
                found.path.name,
                found,
                standing=Standing.SPENT if spent else Standing.CACHED,
                used=used,
                lock=lock,
            )

    def _mounts(self) -> Iterator[Item]:
        """The disks of the caches. Their folders and locks stay: an empty cache is one without a disk."""
        for folder in _folders(self._root / "mounts"):
            title = _title(folder / "about.json")
            for instance in _folders(folder):
                found = self._usage.of(instance / "disk")
                if found is not None:
                    identity = f"{folder.name}/{instance.name}"
                    yield self._item(
                        Sort.MOUNT, identity, found, title=title, standing=Standing.CACHED, lock=instance / "used"
                    )

    def _contexts(self) -> Iterator[Item]:
        for found in self._children("contexts"):
            yield self._item(Sort.CONTEXT, found.path.name, found, standing=Standing.SPENT)

    def _aside(self) -> Iterator[Item]:
        for pattern in ("index.damaged.*", "index.json.damaged.*", "aside.*"):
            for path in sorted(self._root.glob(pattern)):
                if (found := self._usage.of(path)) is not None:
                    yield self._item(Sort.ASIDE, path.name, found, standing=Standing.SPENT)

    def _rest(self) -> Iterator[Item]:
        for name in ("index", "used", "locks", "tmp", "vm/scratch", "vm/run"):
            if (found := self._usage.of(self._root / name)) is not None:
                yield Item(Sort.OTHER, name, size=found.size, created=found.written, used=found.written)

    def _children(self, name: str) -> Iterator[Found]:
        return self._usage.children(self._root / name)

    def _item(
        self,
        sort: Sort,
        identity: str,
        found: Found,
        *,
        title: str = "",
        standing: Standing = Standing.KEPT,
        tied: str = "",
        used: float = 0.0,
        lock: Path | None = None,
    ) -> Item:
        noted = self._store.uses.name(found.path)
        elsewhere = self._is_elsewhere(found.path)
        return Item(
            sort,
            identity,
            title,
            paths=(found.path,),
            size=found.size,
            created=found.written,
            used=max(used or found.written, self._times.get(noted, 0.0)),
            standing=Standing.KEPT if elsewhere else standing,
            tied="" if elsewhere else tied,
            lock=lock,
            noted=(noted,),
        )

    def _is_elsewhere(self, path: Path) -> bool:
        """Whether a link leads to it."""
        return any(
            above.is_symlink() for above in path.parents if above.is_relative_to(self._root) and above != self._root
        )


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def _title(about: Path) -> str:
    try:
        with about.open("rb") as file:
            told = json.loads(file.read(_ABOUT_BYTES))
    except (OSError, ValueError, RecursionError):
        return ""
    name = told.get("id") if isinstance(told, dict) else None
    return name if isinstance(name, str) else ""


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
