"""--cache-to: brings what a build came to where --cache-from will look for it."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import field, replace
from functools import partial
from typing import BinaryIO

from cache.carry.artifact import MOUNT_TYPE, RECORDS_TYPE
from cache.carry.entry import CacheEntry, CarriedBlob, CarriedMount
from cache.carry.index import CacheIndex
from cache.carry.place import CachePlace
from cache.results import Layer
from cache.spans import span
from cache.store import Store
from engine.carry.outcome import BuildOutcome
from engine.carry.outgoing import outgoing
from engine.carry.records import RecordPack, pack_records, read_records
from engine.carry.settle import Signs, differs, settled
from engine.carry.spec import CacheTarget, CacheType
from engine.events import Note, Observer, TransferProgress, WarningRaised
from engine.output.compress import DEFAULT
from engine.parallel import in_parallel
from engine.plan import PlannedStep
from engine.supply import LayerSupply
from machinefile.errors import HostError, InterruptedBuildError, MbuildError, StoreError, TransferError
from machinefile.values import dataclass

PARALLEL = 4
"""Blobs at a time."""
_DAY = 86400
_REFRESH_DAYS = 7
"""How old the day of an entry's last use must be to be a reason of its own for writing."""
_WRONG_CLOCK = 300
"""Seconds that other machines' clocks may be ahead of ours."""
_MOST_PACKS = 8
"""Packs of records that are looked into before a key signs what others sent."""


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """One --cache-to, opened."""

    target: CacheTarget
    place: CachePlace
    signer: Signs | None = None


@dataclass(frozen=True, slots=True)
class PackedMount:
    """A cache mount's disk, ready to go out."""

    mount: CarriedMount
    changed: float
    """When the disk was last written: seconds since 1970."""
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Exported:
    """What went to one place."""

    label: str
    entries: int
    """Steps that the place did not have, or had otherwise."""
    mounts: int
    sent: int
    """Bytes of blobs; those of the index do not count."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What came of all exports."""

    exported: tuple[Exported, ...] = ()
    failure: MbuildError | None = None
    """The first, of those that are no mere warning."""


@contextmanager
def open_exporter(
    targets: Sequence[CacheTarget],
    open_target: Callable[[CacheTarget], OpenTarget],
    store: Store,
    observer: Observer,
    cancelled: threading.Event,
) -> Iterator[Exporter]:
    """Open the places, and close them when the context is left. One that cannot be opened, and may fail, is left out.

    Raises UsageError, HostError, TransferError.
    """
    with ExitStack() as stack:
        found: list[OpenTarget] = []
        for target in targets:
            try:
                opened = open_target(target)
            except (HostError, TransferError) as error:
                if not target.ignore_error:
                    raise
                observer(WarningRaised(f"no cache goes to {target.label}: {error.message}", error.code))
                continue
            stack.callback(opened.place.close)
            found.append(opened)
        yield Exporter(found, store, observer, cancelled)


@dataclass(frozen=True, slots=True)
class Exporter:
    """The exports of one build."""

    targets: Sequence[OpenTarget]
    store: Store
    observer: Observer
    cancelled: threading.Event

    def export(
        self,
        outcome: BuildOutcome,
        supply: LayerSupply,
        disks: Callable[[CacheTarget], Sequence[PackedMount]] = lambda target: (),
    ) -> ExportReport:
        """Bring what is new to all places. One that fails does not stop the others.

        `supply` has the layers that the build found elsewhere; `disks` gives the cache mounts that a target asks for.
        Raises InterruptedBuildError.
        """
        exported: list[Exported] = []
        failure: MbuildError | None = None
        for opened in self.targets:
            label = opened.place.label
            self.observer(Note(f"exporting cache to {label}"))
            try:
                with span("export", "output", to=label):
                    exported.append(_Export(self, opened, outcome, supply, disks(opened.target)).run())
            except InterruptedBuildError:
                raise
            except MbuildError as error:
                message = f"the cache could not be exported to {label}: {error.message}"
                if opened.target.ignore_error:
                    self.observer(WarningRaised(message, error.code))
                elif isinstance(error, HostError) and not isinstance(error, StoreError):
                    # A place that fails is no other failure for being a folder.
                    failure = failure or TransferError(message, code=error.code, hint=error.hint)
                else:
                    error.message = message
                    failure = failure or error
        return ExportReport(tuple(exported), failure)


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    size: int
    media_type: str
    open: Callable[[], BinaryIO]


@dataclass(slots=True)
class _Export:
    exporter: Exporter
    opened: OpenTarget
    outcome: BuildOutcome
    supply: LayerSupply
    disks: Sequence[PackedMount]
    there: set[str] = field(default_factory=set)
    """The digests of blobs that are known to be at the place."""
    own: dict[str, CacheEntry] = field(default_factory=dict)
    """What this build says of steps, by key."""
    hearsay: set[str] = field(default_factory=set)
    """The keys of those that are not signed."""
    pack: RecordPack | None = None
    day: int = field(default_factory=lambda: int(time.time()) // _DAY)
    entries: int = 0
    """That the last change changed."""
    mounts: int = 0

    def run(self) -> Exported:
        place = self.opened.place
        index = place.known(self._begin_anew)
        planned = self.outcome.steps(self.opened.target.mode)
        carried = self._carried(index, planned)
        for step in planned:
            entry = self.outcome.entry(step, carried, self.day)
            if entry is not None:
                self.own[step.key] = entry
                if self.outcome.results[step.step.id].hearsay:
                    self.hearsay.add(step.key)
        self._look(index)
        self._look_into_records(index)
        # What is not as the place has it goes there; for the rest the place's own blobs do.
        new = {key for key in self.own if self._is_new(index, key)}
        layers = {layer.digest: layer for key in new for layer in self.own[key].result.layers}
        blobs = [self._blob(layer) for layer in layers.values()]
        blobs += self._pack(index, [step for step in planned if step.key in new])
        sent = self._send([*blobs, *self._disks(index)])
        self._tell_unsigned(index)
        if self._change(index) is index or not place.publish(self._change):
            self.entries = self.mounts = 0
        self._tell(sent)
        return Exported(place.label, self.entries, self.mounts, sent)

    def _begin_anew(self, error: TransferError) -> None:
        message = f"the index of the cache in {self.opened.place.label} is written anew: {error.message}"
        self.exporter.observer(WarningRaised(message, error.code))

    def _carried(self, index: CacheIndex, planned: Sequence[PlannedStep]) -> dict[str, Layer]:
        """What the layers of steps go out as, by diff id."""
        store = self.exporter.store
        layers = self.outcome.layers(step.step.id for step in planned)
        there: dict[str, Layer] = {}
        if self.opened.signer is None:  # who signs has to know what is in a blob
            identity = DEFAULT.identity
            packed = {one.diff_id: one for one in index.layers().values() if index.packings.get(one.digest) == identity}
            wanted = {layer.diff_id for layer in layers}
            self._ask((one.digest, one.size) for diff_id, one in packed.items() if diff_id in wanted)
            there = {diff_id: one for diff_id, one in packed.items() if one.digest in self.there}
        needed = {layer.diff_id for layer in self.outcome.layers(self.outcome.chain())}

        def brought(layer: Layer) -> bool:
            if layer.diff_id not in needed:
                return False
            try:
                self.supply.bring([layer])
            except InterruptedBuildError:
                raise
            except MbuildError as error:
                self.exporter.observer(WarningRaised(f"a layer stays out of the cache: {error.message}", error.code))
                return False
            return True

        return outgoing(layers, there, brought, store, self.supply, self.exporter.cancelled)

    def _look(self, index: CacheIndex) -> None:
        """Find out which of the blobs that matter are at the place: those of an entry there may have gone."""
        known = {key: entry for key, entry in index.entries.items() if key in self.own}
        blobs = {
            layer.digest: layer.size for one in (self.own, known) for e in one.values() for layer in e.result.layers
        }
        packs = {entry.records for entry in known.values()} & index.packs.keys()
        blobs.update((digest, index.packs[digest].size) for digest in packs)
        blobs.update((disk.mount.digest, disk.mount.size) for disk in self.disks)
        self._ask(blobs.items())

    def _look_into_records(self, index: CacheIndex) -> None:
        """Take over what others sent of records, if it is what is said: else who signs sends them again."""
        signer = self.opened.signer
        if signer is None:
            return
        told = {key: index.entries[key] for key in self.own if key in index.entries}
        packs = Counter(one.records for one in told.values() if one.records in self.there and not signer.trusts(one))
        looked = {digest for digest, _ in packs.most_common(_MOST_PACKS)}
        # What does not give the key that it is said to be of is left out there.
        for key in read_records(self.opened.place, index, [key for key, one in told.items() if one.records in looked]):
            self.own[key] = replace(self.own[key], records=told[key].records)

    def _has_records(self, index: CacheIndex, key: str) -> bool:
        """Whether the place has the records of a step, in a pack that may be named."""
        old, signer = index.entries.get(key), self.opened.signer
        if self.own[key].records:
            return True
        return old is not None and old.records in self.there and (signer is None or signer.trusts(old))

    def _ask(self, blobs: Iterable[tuple[str, int]]) -> None:
        asked = {digest: size for digest, size in blobs if digest not in self.there}
        place = self.opened.place

        def has(blob: tuple[str, int], stop: threading.Event) -> bool:
            return place.has(*blob)

        found = in_parallel([partial(has, one) for one in asked.items()], PARALLEL, self.exporter.cancelled)
        self.there.update(digest for digest, is_there in zip(asked, found, strict=True) if is_there)

    def _settled(self, index: CacheIndex, key: str) -> CacheEntry:
        old, signer = index.entries.get(key), self.opened.signer
        return settled(self.own[key], old, self.there, signer, hearsay=key in self.hearsay)

    def _is_new(self, index: CacheIndex, key: str) -> bool:
        """Whether something of a step has to go out: it is told otherwise there, or its blobs have gone."""
        entry = self._settled(index, key)
        return differs(entry, index.entries.get(key)) or not self._is_whole(entry)

    def _is_whole(self, entry: CacheEntry) -> bool:
        return all(layer.digest in self.there for layer in entry.result.layers)

    def _blob(self, layer: Layer) -> _Blob:
        return _Blob(layer.digest, layer.size, layer.media_type, partial(self.exporter.store.blobs.open, layer.digest))

    def _pack(self, index: CacheIndex, new: Sequence[PlannedStep]) -> list[_Blob]:
        """The records of steps whose records the place does not have."""
        records = {step.key: step.record for step in new if not self._has_records(index, step.key)}
        if not records:
            return []
        self.pack = pack = pack_records(records)
        for key in pack.keys:
            self.own[key] = replace(self.own[key], records=pack.digest)
        return [_Blob(pack.digest, len(pack.data), RECORDS_TYPE, lambda: io.BytesIO(pack.data))]

    def _disks(self, index: CacheIndex) -> list[_Blob]:
        wanted = [disk.mount for disk in self.disks if self._newer(disk, index)]
        opens = {disk.mount.digest: disk.open for disk in self.disks}
        return [_Blob(mount.digest, mount.size, MOUNT_TYPE, opens[mount.digest]) for mount in wanted]

    def _newer(self, disk: PackedMount, index: CacheIndex) -> bool:
        """Whether a disk is to go out: not where somebody has sent another since it was written."""
        old = index.mounts.get(disk.mount.identity)
        if old is not None and old.digest == disk.mount.digest:
            return old.digest not in self.there
        return old is None or _is_ahead(old) or disk.changed > old.created

    def _send(self, blobs: Iterable[_Blob]) -> int:
        """Send what is not there; gives how many bytes that were."""
        missing = [blob for blob in blobs if blob.digest not in self.there]
        in_parallel([partial(self._send_one, blob) for blob in missing], PARALLEL, self.exporter.cancelled)
        self.there.update(blob.digest for blob in missing)
        return sum(blob.size for blob in missing)

    def _send_one(self, blob: _Blob, stop: threading.Event) -> None:
        label = f"cache {blob.digest.removeprefix('sha256:')[:12]}"
        # A registry's client tells itself how far it is.
        tells = self.opened.target.type is not CacheType.REGISTRY
        if tells:
            self.exporter.observer(TransferProgress(blob.digest, label, 0, blob.size))
        self.opened.place.send(blob.digest, blob.size, blob.media_type, blob.open)
        if tells:
            self.exporter.observer(TransferProgress(blob.digest, label, blob.size, blob.size, finished=True))

    def _change(self, index: CacheIndex) -> CacheIndex:
        """The index with what is ours; `index` itself, if that says nothing new."""
        entries = {key: self._settled(index, key) for key in self.own}
        # Another export may have changed an entry since we looked: what it names then may not be there for long.
        entries = {key: entry for key, entry in entries.items() if self._is_whole(entry)}
        mounts = self._mounts(index)
        self.entries = sum(differs(entry, index.entries.get(key)) for key, entry in entries.items())
        self.mounts = len(mounts)
        aged = any(self.day - index.entries[key].used >= _REFRESH_DAYS for key in entries if key in index.entries)
        if not (self.entries or self.mounts or aged):
            return index
        packs = {self.pack.digest: CarriedBlob(self.pack.digest, len(self.pack.data))} if self.pack is not None else {}
        packings = {layer.digest: DEFAULT.identity for entry in self.own.values() for layer in entry.result.layers}
        return index.merged(CacheIndex(entries, mounts, packs, packings))

    def _mounts(self, index: CacheIndex) -> dict[str, CarriedMount]:
        found: dict[str, CarriedMount] = {}
        for disk in self.disks:
            mount, old, signer = disk.mount, index.mounts.get(disk.mount.identity), self.opened.signer
            if old is not None and old.digest == mount.digest:
                # Who signs takes over no time that the same key has not signed.
                known = (signer is None or signer.trusts(old)) and not _is_ahead(old)
                mount = old if known and (old.id, old.size) == (mount.id, mount.size) else mount
            elif not self._newer(disk, index):
                continue
            signed = mount if signer is None else signer.sign(mount)
            if signed != old and signed.digest in self.there:
                found[signed.identity] = signed
        return found

    def _tell_unsigned(self, index: CacheIndex) -> None:
        signer = self.opened.signer
        if signer is None:
            return
        unsigned = sum(not signer.trusts(self._settled(index, key)) for key in self.hearsay)
        if unsigned:
            steps = f"{unsigned} step" + "s" * (unsigned != 1)
            message = f"not signed, as what was made of a cache read without verify-key=: {steps}"
            self.exporter.observer(WarningRaised(message, "cache-unsigned"))

    def _tell(self, sent: int) -> None:
        if not (self.entries or self.mounts or sent):
            self.exporter.observer(Note(f"nothing new for the cache in {self.opened.place.label}"))
            return
        steps = f"{self.entries} step" + "s" * (self.entries != 1)
        mounts = f", {self.mounts} cache mount" + "s" * (self.mounts != 1) if self.mounts else ""
        what = f"{steps}{mounts}, {sent} bytes sent"
        self.exporter.observer(Note(f"the cache in {self.opened.place.label} has {what}"))


def _is_ahead(mount: CarriedMount) -> bool:
    """Whether it says that it was sent at a time that is to come: that says nothing."""
    return mount.created > time.time() + _WRONG_CLOCK
