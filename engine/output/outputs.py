"""Writes what a build was asked for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cache.store import Store
from engine.events import Note, Observer
from engine.layers.flatten import flatten, merge_disk, merged_entries
from engine.layerstore import LayerStore
from engine.output.ext4 import make_ext4
from engine.output.files import check_destinations, output_errors, replacing, writing
from engine.output.image import BuiltImage, variant
from engine.output.kinds import DiskFormat, OutputSpec, OutputType
from engine.output.layout import write_archive, write_folder
from engine.output.local import write_local
from machinefile.errors import UsageError

Push = Callable[[BuiltImage, Sequence[str]], None]
"""Sends an image whose blobs are in the store to the registries of its names."""


@dataclass(frozen=True, slots=True)
class Written:
    """An output that is there."""

    output: OutputSpec
    image: BuiltImage
    """As it went out: with another compression it has another digest than in the store."""


def write_outputs(
    outputs: Sequence[OutputSpec],
    image: BuiltImage,
    names: Sequence[str],
    store: Store,
    layers: LayerStore,
    observer: Observer,
    *,
    cancelled: threading.Event | None = None,
    push: Push | None = None,
) -> tuple[Written, ...]:
    """Write the outputs, one after another; the image's own names come before those of `name=`.

    A file is there whole or not at all. A folder of type `local` may be left with some of the files, each whole.
    Raises UsageError, HostError, StoreError, UntrustedDataError, InterruptedBuildError.
    """
    check_destinations(tuple(outputs))
    writer = _Writer(image, tuple(names), store, layers, observer, cancelled or threading.Event(), push)
    return tuple(writer.write(output) for output in outputs)


@dataclass(frozen=True, slots=True)
class _Writer:
    image: BuiltImage
    names: tuple[str, ...]
    store: Store
    layers: LayerStore
    observer: Observer
    cancelled: threading.Event
    push: Push | None

    def write(self, output: OutputSpec) -> Written:
        if output.type is not OutputType.IMAGE:
            self.observer(Note(f"writing {output.label}"))
        if output.type.is_image:
            image = variant(self.image, output, self.store, self.cancelled)
            self._image(output, image, tuple(dict.fromkeys((*self.names, *output.names))))
            return Written(output, image)
        self._files(output)
        return Written(output, self.image)

    def _image(self, output: OutputSpec, image: BuiltImage, names: tuple[str, ...]) -> None:
        match output.type:
            case OutputType.OCI if not output.tar:
                write_folder(image, names, output.destination, self.store, self.cancelled)
            case OutputType.IMAGE:
                self._keep(output, image, names)
            case kind:
                with writing(output, self.cancelled) as sink:
                    write_archive(image, names, sink, self.store, self.cancelled, docker=kind is OutputType.DOCKER)

    def _keep(self, output: OutputSpec, image: BuiltImage, names: tuple[str, ...]) -> None:
        if not names:
            raise UsageError(
                "-o type=image writes an image under its name, and it has none",
                code="output-nameless",
                hint="name it with -t NAME or name=NAME",
            )
        for name in names:
            image.keep(name, self.store)
        if output.push:
            if self.push is None:
                raise UsageError("push=true is not supported here", code="output-unsupported")
            self.push(image, names)

    def _files(self, output: OutputSpec) -> None:
        match output.type:
            case OutputType.LOCAL:
                root = self.layers.view(self.image.layers)
                files = self.layers.files(self.image.layers)
                note = write_local(merged_entries(root), files, output.destination, self.cancelled)
                if note:
                    self.observer(Note(note))
            case OutputType.TAR:
                self._tar(output)
            case _:
                with output_errors(output.label):
                    self._disk(output)

    def _tar(self, output: OutputSpec) -> None:
        indexes = self.layers.view(self.image.layers).indexes
        with writing(output, self.cancelled) as sink:
            openers = self.layers.openers(self.image.layers)
            flatten(indexes, openers, sink, limits=self.layers.limits, scratch=self.store.temporary)

    def _disk(self, output: OutputSpec) -> None:
        root = self.layers.view(self.image.layers)
        with replacing(output.destination) as temporary:
            if output.disk_format is DiskFormat.SQUASHFS:
                openers = self.layers.openers(self.image.layers)
                merge_disk(root.indexes, openers, temporary, limits=self.layers.limits)
                return
            scratch = self.store.folder()
            try:
                files = self.layers.files(self.image.layers)
                make_ext4(merged_entries(root), files, temporary, scratch, output.disk_size)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
