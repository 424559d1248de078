"""Layers in the store: what is in them, as disks for guests, and new ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from cache.blobs import BlobWriter
from cache.files import file_digest, store_errors, write_atomically
from cache.index import Kind
from cache.results import Layer
from cache.spans import span
from cache.store import Store
from engine.bases import Base, Bases
from engine.images import mediatype
from engine.layers.limits import LayerLimits
from engine.layers.times import NORMAL, Times
from machinefile.errors import StoreError

if TYPE_CHECKING:
    # A cached build reads and writes no layer: the methods import what they use.
    from engine.layers.compression import Sink
    from engine.layers.content import BlobOpener, LayerFiles
    from engine.layers.conveyor import Conveyor
    from engine.layers.disk import SquashfsWriter
    from engine.layers.index import LayerIndex
    from engine.layers.root import RootView
    from engine.layers.tarwrite import Item, WrittenLayer

Layers = tuple[Layer, ...]


class Writing(Protocol):
    """Writes a layer to `out`; `digest` then gives `sha256:...` of what was written."""

    def __call__(self, out: Sink, *, digest: Callable[[], str]) -> WrittenLayer:
        """See `write_layer`."""
        ...


class LayerStore:
    """The layers of one build. A base's layer is pulled when it is first looked into.

        layers/<diff id>       what is in the layer (LayerIndex)
        disks/<id>.squashfs    the layer for a guest

    Both are made from the blob and can be made again; they are written whole, under the lock of the layer.
    """

    def __init__(
        self,
        store: Store,
        bases: Bases,
        limits: LayerLimits | None = None,
        guard: Callable[[Item], Item] | None = None,
        cancelled: threading.Event | None = None,
        times: Times = NORMAL,
    ) -> None:
        """`guard` sees every entry of a new layer; it may wrap its content, and raise to have nothing kept. `cancelled`
        ends the wait for a layer that somebody else makes ready."""
        self.times = times
        """Those of what goes into new layers."""
        self._store = store
        self._bases = bases
        self._guard = guard
        self._cancelled = cancelled
        self.limits = limits or LayerLimits.from_environment()
        """How large a layer, or an archive, may be."""
        self._indexes: dict[str, LayerIndex] = {}
        self._views: dict[tuple[str, ...], RootView] = {}

    def folder(self) -> Path:
        """A new empty folder for temporary files."""
        return self._store.folder()

    def bring(self, base: Base, stop: threading.Event | None = None) -> None:
        """Pull a base's layers and make of them, while they come, what steps on them are going to want. `stop` ends it.

        Raises as `Bases.pull_all`, `view` and `disks`.
        """
        with self._bases.pulling(base, stop):
            self.view(base.layers, stop)

    def check(self, layer: Layer, below: Layers | None = None) -> None:
        """Read a layer's blob from end to end: that it is what its diff id says, and a layer that we take. One that is
        going to be read on top of `below` gets its disk at once.

        Raises UntrustedDataError, and as `Bases.open`.
        """
        from engine.layers.layerdisk import prepare_layer

        known = self._indexes.get(layer.diff_id) or self._load(layer.diff_id)
        if known is None and below is not None:
            self._index(below, layer)
            return
        with span("check", "layer", layer=layer.diff_id), self._bases.open(layer) as blob:
            prepared = prepare_layer(blob, diff_id=layer.diff_id, limits=self.limits)
        if known is None:
            self._remember(prepared.index)

    def view(self, layers: Layers, stop: threading.Event | None = None) -> RootView:
        """The file system that layers make together, lowest first. `stop` ends a wait for who else makes them ready.

        Raises InterruptedBuildError, and TransferError, UntrustedDataError, StoreError when a layer cannot be had or is
        not what it should be.
        """
        from engine.layers.root import RootView

        key = tuple(layer.diff_id for layer in layers)
        if key not in self._views:
            indexes = [self._index(layers[:number], layer, stop) for number, layer in enumerate(layers)]
            self._views[key] = RootView(indexes)
        return self._views[key]

    def disks(self, layers: Layers) -> tuple[Path, ...]:
        """A squashfs for each layer, lowest first. Raises as `view`, and HostError."""
        with span("disks", "layer", layers=len(layers)):
            return tuple(self._disk(layers[:number], layer) for number, layer in enumerate(layers))

    def files(self, layers: Layers) -> LayerFiles:
        """The contents of the files of layers."""
        from engine.layers.content import LayerFiles

        return LayerFiles(self.view(layers).indexes, self.openers(layers), self.limits)

    def openers(self, layers: Layers) -> tuple[BlobOpener, ...]:
        """What opens the blobs of layers, compressed or not; a base's is pulled when it is opened."""
        return tuple(self._opener(layer) for layer in layers)

    def write(self, items: Iterable[Item], *, guarded: bool = True) -> Layer | None:
        """A new layer of these entries in the store; None when there are none. One that goes into no image need not be
        guarded. Raises HostError, StoreError, and what the guard raises."""
        from engine.layers.tarwrite import write_layer

        with span("write", "layer"):
            listed = list(items)
            if self._guard is not None and guarded:
                listed = [self._guard(item) for item in listed]
            return self._keep(partial(write_layer, listed)) if listed else None

    def add_changes(
        self, stream: BinaryIO, below: Layers | None = None, *, scratch: BinaryIO | None = None
    ) -> Layer | None:
        """A new layer of what a guest changed (a change stream, and the disk that it may refer to); None when it
        changed nothing. With `below`, what it is
        laid on, it gets its disk in the same pass: for who is going to run something on it.

        Raises UntrustedDataError when the stream makes no sense; as `view`, and HostError.
        """
        from engine.layers.changes import layer_from_changes, read_changes

        with span("take", "layer"):
            changes = read_changes(stream, self.limits, scratch)
            if changes.is_empty:
                return None
            write = partial(layer_from_changes, changes, times=self.times, guard=self._guard)
            return self._keep(write) if below is None else self._keep_with_disk(write, self.view(below))

    def _keep(self, write: Writing) -> Layer:
        return _layer_of(self._write_blob(write))

    def _keep_with_disk(self, write: Callable[..., WrittenLayer], below: RootView) -> Layer:
        from concurrent.futures import Future, ThreadPoolExecutor

        from engine.layers.disk import beginning_disk
        from engine.layers.layerdisk import disk_path

        completed: list[Future[None]] = []
        with beginning_disk(self._disk_folder, self._store.temporary) as disk, ThreadPoolExecutor(1) as meanwhile:

            def with_disk(out: Sink, *, digest: Callable[[], str]) -> WrittenLayer:
                written = write(out, digest=digest, beside=disk)
                # The disk is completed while the blob is flushed.
                completed.append(meanwhile.submit(_complete, disk, written.index, below))
                return written

            written = self._write_blob(with_disk)
            layer = _layer_of(written)
            completed[0].result()
            self._place(disk, disk_path(self._disk_folder, written.index, below), layer)
        return layer

    def _place(self, disk: SquashfsWriter, path: Path, layer: Layer) -> None:
        """Put a new disk where `_disk` looks for it, unless there is a sound one."""
        with self._store.lock(f"layer {layer.diff_id}", cancelled=self._cancelled):
            if not self._is_sound(path):
                disk.publish(path)
                self._tell_disk(path, layer)

    def _write_blob(self, write: Writing) -> WrittenLayer:
        """The blob is hashed and written in a thread of its own, while what is in it is read; while it is flushed, what
        is in it is remembered."""
        from concurrent.futures import ThreadPoolExecutor

        from engine.layers.conveyor import conveyed

        with ThreadPoolExecutor(1, "index") as meanwhile:
            with self._store.blobs.writer() as writer, conveyed(writer.write, "layer") as out:
                written = write(out, digest=lambda: _finished(out, writer))
                remembered = meanwhile.submit(self._remember, written.index)
            remembered.result()
        return written

    def _index(self, below: Layers, layer: Layer, stop: threading.Event | None = None) -> LayerIndex:
        found = self._indexes.get(layer.diff_id) or self._load(layer.diff_id)
        if found is None:
            with self._store.lock(f"layer {layer.diff_id}", cancelled=stop or self._cancelled):
                found = self._load(layer.diff_id) or self._prepare(below, layer)
        self._indexes[layer.diff_id] = found
        return found

    def _prepare(self, below: Layers, layer: Layer) -> LayerIndex:
        """One pass over the blob checks it, indexes it and makes the disk that a RUN on it is going to want."""
        from engine.layers.layerdisk import prepare_layer

        with span("prepare", "layer", layer=layer.diff_id), self._bases.open(layer) as blob:
            prepared = prepare_layer(
                blob,
                diff_id=layer.diff_id,
                limits=self.limits,
                folder=self._disk_folder,
                below=self.view(below),
                scratch=self._store.temporary,
            )
        self._remember(prepared.index)
        if prepared.disk is not None:
            self._tell_disk(prepared.disk, layer)
        return prepared.index

    def _disk(self, below: Layers, layer: Layer) -> Path:
        from engine.layers.layerdisk import disk_path, make_disk

        index, under = self._index(below, layer), self.view(below)
        path = disk_path(self._disk_folder, index, under)
        if self._is_sound(path):
            return path
        with self._store.lock(f"layer {layer.diff_id}", cancelled=self._cancelled):
            if self._is_sound(path):
                return path
            with store_errors("removing a damaged disk"):
                path.unlink(missing_ok=True)
            with span("disk", "layer", layer=layer.diff_id), self._bases.open(layer) as blob:
                make_disk(
                    blob,
                    self._disk_folder,
                    index=index,
                    below=under,
                    limits=self.limits,
                    scratch=self._store.temporary,
                )
            self._tell_disk(path, layer)
        return path

    def _tell_disk(self, path: Path, layer: Layer) -> None:
        """Remember that a disk is right as it is now, and which layer it holds: its name says neither."""
        self._store.index.put(Kind.DISK, path.name, layer.diff_id)
        self._store.settling.begin(path)

    def _is_sound(self, disk: Path) -> bool:
        """Whether a disk is there as it was made; if so, it stays for as long as this process lives. It is read only
        if it was touched since that was last known; of one of which nothing is known a new one is made."""
        store = self._store
        if store.uses.find(disk) is None:
            return False
        if (seal := store.seals.find(disk)) is not None:
            if seal.boot:  # who made it did not come to the end of flushing it
                store.settling.begin(disk, seal.digest)
            return True
        known = store.seals.digest(disk)
        with store_errors("reading a layer's disk"):
            if not known or not disk.is_file() or file_digest(disk) != known:
                return False
        store.settling.begin(disk, known)
        return True

    def _load(self, diff_id: str) -> LayerIndex | None:
        from engine.layers.index import LayerIndex

        path = self._store.derived("layers", diff_id)
        try:
            if self._store.uses.find(path) is None:
                return None
            found = LayerIndex.from_bytes(path.read_bytes())
        except (OSError, StoreError):
            return None
        return found if found.diff_id == diff_id else None

    def _remember(self, index: LayerIndex) -> None:
        self._indexes[index.diff_id] = index
        with store_errors("writing what is in a layer"):
            write_atomically(self._store.derived("layers", index.diff_id), index.to_bytes(), self._store.temporary)

    def _opener(self, layer: Layer) -> BlobOpener:
        return lambda: self._bases.open(layer)

    @property
    def _disk_folder(self) -> Path:
        return self._store.root / "disks"


def _layer_of(written: WrittenLayer) -> Layer:
    return Layer(written.diff_id, written.diff_id, written.size, mediatype.OCI_LAYER)


def _finished(out: Conveyor, blob: BlobWriter) -> str:
    out.finish()
    return blob.digest


def _complete(disk: SquashfsWriter, index: LayerIndex, below: RootView) -> None:
    """Add to a disk what is beside files."""
    disk.add_others(index, below.implied(index))
    disk.finish()
