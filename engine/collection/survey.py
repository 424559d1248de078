"""Everything in a store, and what needs what."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping

from cache.chains import layers_of_part
from cache.collection.item import Holdings, Item, Reference, Sort, Standing, blob, diff, machine
from cache.collection.sizes import DiskUsage, Found
from cache.index import EntryFacts, Kind
from cache.results import Layer, StepResult
from cache.store import Store
from engine.collection.images import ImageReader, Needs
from engine.collection.places import Places
from machinefile.errors import InterruptedBuildError
from machinefile.values import dataclass

_REMEMBERED = 30 * 86_400.0
"""Seconds for which the index knows of a blob that is gone where it was: a server may say that it is still the same."""
_MOST_RECORDS = 10_000
_MOST_RECORD_BYTES = 64 << 20
"""Of the records of steps whose results are gone: they say that a step was built once, and of what."""


def survey(store: Store, cancelled: threading.Event | None = None, deadline: float | None = None) -> Holdings:
    """What the store holds. Reads the index, the manifests of images, and no other content.

    Raises StoreError; InterruptedBuildError when `cancelled` is set, or `deadline` (of time.monotonic) is past.
    """
    return _Survey(store, cancelled or threading.Event(), deadline).made()


@dataclass(frozen=True, slots=True)
class _Step:
    key: str
    result: StepResult
    stored: float
    """When the index was told: seconds since 1970."""


@dataclass(frozen=True, slots=True)
class _Base:
    digest: str
    needs: Needs
    title: str
    stored: float


class _Survey:
    def __init__(self, store: Store, cancelled: threading.Event, deadline: float | None) -> None:
        self._store = store
        self._cancelled = cancelled
        self._deadline = deadline
        self._references: list[Reference] = []
        self._times: Mapping[str, float] = {}
        self._blobs: dict[str, Found] = {}

    def made(self) -> Holdings:
        now = self._store.now()  # first: whoever begins after that is not older
        began = self._store.others_began()
        guard = now if began is None else min(now, began)
        # In this order, names, index, files: what others write meanwhile is seen with all that it speaks of, or it is
        # newer than the guard.
        names = self._store.names.all()
        machines = self._machines()
        reader = ImageReader(self._store, machines)
        images = [(image.name, reader.needs(image.digest)) for image in names]
        steps = list(self._steps())
        bases = list(self._bases(reader))
        variants = list(self._variants())
        remotes = list(self._remotes())
        disks = self._disks()
        self._origins()
        self._provenances()
        self._seals()
        self._times = self._store.uses.times()
        usage = DiskUsage()
        for found in usage.children(self._store.root / "blobs" / "sha256"):
            self._check()
            self._blobs[f"sha256:{found.path.name}"] = found
        items = [Item(Sort.IMAGE, name, name, keeps=needs.names()) for name, needs in images]
        items += self._step_items(steps)
        items += (self._base_item(base) for base in bases)
        items += self._remote_items(remotes)
        sorts = _sorts(steps, bases, variants, remotes, [needs for _, needs in images])
        items += (self._blob_item(digest, found, sorts) for digest, found in self._blobs.items())
        self._check()
        diffs = {name.removeprefix(diff("")) for item in items for name in item.keeps if name.startswith(diff(""))}
        items += Places(self._store, usage, self._times, time.time()).items(disks, diffs)
        return Holdings(tuple(items), tuple(self._references), guard, now)

    def _check(self) -> None:
        if self._cancelled.is_set() or (self._deadline is not None and time.monotonic() > self._deadline):
            raise InterruptedBuildError

    def _entries(self, kind: Kind) -> Iterator[tuple[EntryFacts, object]]:
        for entry in self._store.index.entries(kind):
            self._check()
            yield entry

    def _refer(self, kind: Kind, key: str, names: Iterable[str]) -> None:
        self._references.append(Reference((kind, key), frozenset(names)))

    def _machines(self) -> dict[str, str]:
        found = {}
        for facts, key in self._entries(Kind.MACHINE):
            if isinstance(key, str):
                found[facts.key] = key
                self._refer(Kind.MACHINE, facts.key, [machine(key)])
        return found

    def _steps(self) -> Iterator[_Step]:
        known = set()
        for facts, value in self._entries(Kind.RESULT):
            known.add(facts.key)
            if (result := read_result(self._store, value)) is not None:
                yield _Step(facts.key, result, facts.stored)
        for facts, value in self._entries(Kind.CONTENT):
            if (result := read_result(self._store, value)) is not None:
                self._refer(Kind.CONTENT, facts.key, (blob(layer.digest) for layer in result.layers))
        for facts, value in self._entries(Kind.CHAIN):
            self._refer(Kind.CHAIN, facts.key, (blob(layer.digest) for layer in layers_of_part(value)))
        records, size = 0, 0
        for facts in reversed(list(self._store.index.facts(Kind.RECORD))):
            if facts.key not in known:
                records, size = records + 1, size + facts.size
                if records > _MOST_RECORDS or size > _MOST_RECORD_BYTES:
                    self._refer(Kind.RECORD, facts.key, [f"{Sort.STEP.value} {facts.key}"])

    def _bases(self, reader: ImageReader) -> Iterator[_Base]:
        for facts, value in self._entries(Kind.BASE):
            match value:
                case {"name": str(name), "platform": str(platform)}:
                    self._refer(Kind.BASE, facts.key, [blob(facts.key)])
                    yield _Base(facts.key, reader.needs(facts.key), f"{name} ({platform})", facts.stored)

    def _variants(self) -> Iterator[str]:
        for kind in (Kind.VARIANT, Kind.STAMPED):
            for facts, value in self._entries(kind):
                match value:
                    case [str(digest), int()]:
                        self._refer(kind, facts.key, [blob(digest)])
                        yield digest

    def _remotes(self) -> Iterator[tuple[str, str]]:
        old = time.time() - _REMEMBERED
        for facts, value in self._entries(Kind.REMOTE):
            match value:
                case [str(digest), int(), str(), str()]:
                    if facts.stored < old:
                        self._refer(Kind.REMOTE, facts.key, [blob(digest)])
                    yield facts.key, digest

    def _origins(self) -> None:
        old = time.time() - _REMEMBERED
        for facts in self._store.index.facts(Kind.ORIGIN):
            if facts.stored < old:
                self._refer(Kind.ORIGIN, facts.key, [blob(facts.key)])

    def _provenances(self) -> None:
        for facts in self._store.index.facts(Kind.PROVENANCE):
            self._refer(Kind.PROVENANCE, facts.key, [blob(facts.key)])

    def _seals(self) -> None:
        for facts in self._store.index.facts(Kind.SEAL):
            if not (self._store.root / facts.key).exists():
                self._refer(Kind.SEAL, facts.key, [f"file {facts.key}"])

    def _disks(self) -> dict[str, str]:
        found = {}
        for facts, value in self._entries(Kind.DISK):
            if isinstance(value, str):
                found[facts.key] = value
                self._refer(Kind.DISK, facts.key, [f"{Sort.DISK.value} {facts.key}"])
        return found

    def _step_items(self, steps: Iterable[_Step]) -> Iterator[Item]:
        for step in steps:
            layers = step.result.layers
            blobs = [blob(layer.digest) for layer in layers]
            if not all(layer.digest in self._blobs for layer in layers):
                # It cannot be used; the record stays, and says that it was built.
                self._refer(Kind.RESULT, step.key, blobs)
                continue
            used = max(self._used(layers[-1].digest) if layers else 0.0, step.stored)
            yield Item(
                Sort.STEP,
                step.key,
                created=step.result.created,
                used=used,
                standing=Standing.CACHED,
                keeps=kept_by(step.result),
                adds=_names(step.result.steps[-1] if step.result.steps else None),
                entries=((Kind.RESULT, step.key),),
                used_with=self._marks(layer.digest for layer in layers[-1:]),
            )

    def _base_item(self, base: _Base) -> Item:
        used = [self._used(digest) for digest in (base.digest, *base.needs.layers)]
        return Item(
            Sort.BASE,
            base.digest,
            base.title,
            created=base.stored,
            used=max(used),
            standing=Standing.CACHED,
            keeps=base.needs.names(),
            entries=((Kind.BASE, base.digest),),
            used_with=self._marks((base.digest, *base.needs.layers)),
        )

    def _remote_items(self, remotes: Iterable[tuple[str, str]]) -> Iterator[Item]:
        for key, digest in remotes:
            if (found := self._blobs.get(digest)) is not None:
                yield Item(
                    Sort.REMOTE,
                    key,
                    created=found.written,
                    used=self._used(digest),
                    standing=Standing.CACHED,
                    keeps=frozenset([blob(digest)]),
                    used_with=self._marks([digest]),
                )

    def _blob_item(self, digest: str, found: Found, sorts: Mapping[str, Sort]) -> Item:
        return Item(
            sorts.get(digest, Sort.BLOB),
            digest,
            paths=(found.path,),
            size=found.size,
            created=found.written,
            used=self._used(digest),
            tied=blob(digest),
            noted=(self._store.uses.name(found.path),),
        )

    def _marks(self, digests: Iterable[str]) -> tuple[str, ...]:
        """What the uses of blobs are called."""
        found = (self._blobs.get(digest) for digest in digests)
        return tuple(self._store.uses.name(one.path) for one in found if one is not None)

    def _used(self, digest: str) -> float:
        """When a blob was last used, or written."""
        found = self._blobs.get(digest)
        return max(self._times.get(self._store.uses.name(found.path), 0.0), found.written) if found else 0.0


def _names(layer: Layer | None) -> frozenset[str]:
    return frozenset([blob(layer.digest), diff(layer.diff_id)] if layer is not None else ())


def kept_by(result: StepResult) -> frozenset[str]:
    """What keeps a result keeps these names."""
    return frozenset(name for layer in result.layers for name in (blob(layer.digest), diff(layer.diff_id)))


def read_result(store: Store, value: object) -> StepResult | None:
    try:
        return store.chains.result(value)
    except ValueError:
        return None


def _sorts(
    steps: Iterable[_Step],
    bases: Iterable[_Base],
    variants: Iterable[str],
    remotes: Iterable[tuple[str, str]],
    images: Iterable[Needs],
) -> dict[str, Sort]:
    """What the blobs are; what may be two things counts as the first of these."""
    found: dict[str, Sort] = {}
    said: list[tuple[Sort, Iterable[str]]] = [
        (Sort.LAYER, (layer.digest for step in steps for layer in step.result.layers)),
        (Sort.IMAGE, (digest for base in bases for digest in base.needs.documents)),
        (Sort.BASE, (digest for base in bases for digest in base.needs.layers)),
        (Sort.VARIANT, variants),
        (Sort.IMAGE, (digest for needs in images for digest in (*needs.documents, *needs.layers))),
        (Sort.REMOTE, (digest for _, digest in remotes)),
    ]
    for sort, digests in said:
        for digest in digests:
            found.setdefault(digest, sort)
    return found
