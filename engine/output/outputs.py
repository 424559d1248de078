"""Writes what a build was asked for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from cache.spans import span
from cache.store import Store
from engine.events import Note, Observer
from engine.images.upload import Open
from engine.layers.entry import NORMAL_TIME
from engine.layers.flatten import Folder, flatten, merge_disk, merged_entries
from engine.layerstore import LayerStore
from engine.output.ext4 import make_ext4
from engine.output.files import check_destinations, output_errors, replacing, writing
from engine.output.image import BuiltImage, rfc3339
from engine.output.index import Built, is_whole, variant_of
from engine.output.kinds import DiskFormat, OutputSpec, OutputType
from engine.output.layout import write_archive, write_folder
from engine.output.local import write_local
from engine.platforms import folder_name
from engine.supply import LayerSupply
from machinefile.errors import UsageError
from machinefile.values import dataclass

Push = Callable[[Built, Sequence[str], Open, Callable[[], object]], None]
"""Sends an image, or an index with its images, to the registries of its names; what they lack of its blobs is opened
by digest, and fetched first if it is not in the store. The last is called before a registry is sent anything; not if it
has the image."""


class Attest(Protocol):
    """Adds what is said about an image."""

    def __call__(self, built: Built, names: Sequence[str], output: OutputSpec | None = None, /) -> Built:
        """What was built, which has these names, and this form if an output gave it one, with what is said about it."""


@dataclass(frozen=True, slots=True)
class Written:
    """An output that is there."""

    output: OutputSpec
    built: Built
    """As it went out: with another compression it has another digest than in the store."""


def write_outputs(
    outputs: Sequence[OutputSpec],
    built: Built,
    names: Sequence[str],
    store: Store,
    layers: LayerStore,
    observer: Observer,
    *,
    cancelled: threading.Event | None = None,
    push: Push | None = None,
    supply: LayerSupply | None = None,
    time: int = NORMAL_TIME,
    attest: Attest | None = None,
) -> tuple[Written, ...]:
    """Write the outputs, one after another; the image's own names come before those of `name=`. `time` is that of an
    archive's own files: seconds since 1970. With `attest` images go out with what is said about them.

    A file is there whole or not at all. A folder of type `local` may be left with some of the files, each whole.
    Raises UsageError, HostError, StoreError, UntrustedDataError, InterruptedBuildError.
    """
    check_destinations(tuple(outputs))
    stop = cancelled or threading.Event()
    writer = _Writer(built, tuple(names), store, layers, observer, stop, push, supply, time, attest)
    dated = [replace(output, annotations=output.annotations.dated(rfc3339(time))) for output in outputs]
    written = []
    for output in dated:
        with span("output", "output", to=output.label):
            written.append(writer.write(output))
    return tuple(written)


@dataclass(frozen=True, slots=True)
class _Writer:
    built: Built
    names: tuple[str, ...]
    store: Store
    layers: LayerStore
    observer: Observer
    cancelled: threading.Event
    push: Push | None
    supply: LayerSupply | None
    time: int
    attest: Attest | None

    def write(self, output: OutputSpec) -> Written:
        if output.type is not OutputType.IMAGE:
            self.observer(Note(f"writing {output.label}"))
        if output.type.is_image:
            built = variant_of(self.built, output, self.store, self.cancelled, self.supply)
            names = tuple(dict.fromkeys((*self.names, *output.names)))
            if self.attest is not None:
                built = self.attest(built, names, output)
            self._image(output, built, names)
            return Written(output, built)
        self._files(output)
        return Written(output, self.built)

    def _image(self, output: OutputSpec, built: Built, names: tuple[str, ...]) -> None:
        match output.type:
            case OutputType.OCI if not output.tar:
                write_folder(built, names, output.destination, self.store, self.cancelled)
            case OutputType.IMAGE:
                self._keep(output, built, names)
            case kind:
                with writing(output, self.cancelled) as sink:
                    docker = kind is OutputType.DOCKER
                    write_archive(built, names, sink, self.store, self.cancelled, docker=docker, time=self.time)

    def _keep(self, output: OutputSpec, built: Built, names: tuple[str, ...]) -> None:
        if not names:
            raise UsageError(
                "-o type=image writes an image under its name, and it has none",
                code="output-nameless",
                hint="name it with -t NAME or name=NAME",
            )
        layers = [layer for image in built.images for layer in image.layers]
        supply = self.supply
        if is_whole(built, self.store) and (supply is None or supply.all_checked(layers)):
            for name in names:
                built.keep(name, self.store)
        if output.push:
            if self.push is None:
                raise UsageError("push=true is not supported here", code="output-unsupported")
            if supply is None:
                self.push(built, names, self.store.blobs.open, lambda: None)
            else:
                self.push(built, names, supply.opener(layers), partial(supply.check, layers))

    def _files(self, output: OutputSpec) -> None:
        match output.type:
            case OutputType.LOCAL:
                for image, name in self._folders():
                    self._local(image, output.destination / name)
            case OutputType.TAR:
                self._tar(output)
            case _:
                with output_errors(output.label):
                    self._disk(output, self.built.images[0])

    def _folders(self) -> list[tuple[BuiltImage, str]]:
        """The images, and in which folder of an output each has its files: the output itself for a lone one."""
        if isinstance(self.built, BuiltImage):
            return [(self.built, "")]
        return [(image, folder_name(image.platform)) for image in self.built.images if image.platform is not None]

    def _local(self, image: BuiltImage, destination: Path) -> None:
        root = self.layers.view(image.layers)
        note = write_local(merged_entries(root), self.layers.files(image.layers), destination, self.cancelled)
        if note:
            self.observer(Note(note))

    def _tar(self, output: OutputSpec) -> None:
        folders = [
            Folder(name, self.layers.view(image.layers).indexes, self.layers.openers(image.layers))
            for image, name in self._folders()
        ]
        with writing(output, self.cancelled) as sink:
            flatten(folders, sink, limits=self.layers.limits, scratch=self.store.temporary)

    def _disk(self, output: OutputSpec, image: BuiltImage) -> None:
        root = self.layers.view(image.layers)
        with replacing(output.destination) as temporary:
            if output.disk_format is DiskFormat.SQUASHFS:
                openers = self.layers.openers(image.layers)
                merge_disk(root.indexes, openers, temporary, limits=self.layers.limits)
                return
            scratch = self.store.folder()
            try:
                files = self.layers.files(image.layers)
                make_ext4(merged_entries(root), files, temporary, scratch, output.disk_size)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
