"""Reads files out of layers, each layer once from its beginning to its end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from engine.layers.compression import CHUNK, Source, decompress
from engine.layers.entry import EntryType
from engine.layers.index import LayerIndex
from engine.layers.limits import LayerLimits
from engine.layers.root import Located
from engine.layers.tarread import Content, TarStream, truncated

BlobOpener = Callable[[], AbstractContextManager[Source]]
"""Opens a layer's blob, compressed or not, at its start."""


class StoredContent:
    """One file's content inside a larger file; any number may be open at once."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._at = start
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes (all that is left when negative); none at the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = os.pread(self._descriptor, wanted, self._at) if wanted else b""
        while (
            size < 0
            and len(data) < wanted
            and (more := os.pread(self._descriptor, wanted - len(data), self._at + len(data)))
        ):
            data += more
        self._at += len(data)
        self._left -= len(data)
        return data


class Contents:
    """The contents of files that were asked for, for as long as LayerFiles.gather holds them."""

    def __init__(self, descriptor: int, places: dict[tuple[int, str], tuple[int, int]]) -> None:
        self._descriptor = descriptor
        self._places = places

    def open(self, located: Located) -> StoredContent:
        """The content of a file (or hard link) that was asked for. Raises KeyError for any other."""
        start, size = self._places[located.layer, located.entry.path]
        return StoredContent(self._descriptor, start, size)


class LayerFiles:
    """The contents of the files of layers. `openers` in the order of `indexes`, lowest layer first."""

    def __init__(
        self, indexes: Sequence[LayerIndex], openers: Sequence[BlobOpener], limits: LayerLimits | None = None
    ) -> None:
        self._indexes = tuple(indexes)
        self._openers = tuple(openers)
        self._limits = limits or LayerLimits()

    def stream(self, wanted: Iterable[Located]) -> Iterator[tuple[tuple[Located, ...], Content]]:
        """The contents of files, layer by layer in the order in which they are stored: with each the entries asked for
        that have it (hard links to one file come together). What is no file has none. A content must be read
        before the next is asked for.

        Raises UntrustedDataError when a layer cannot be read.
        """
        by_layer: dict[int, dict[str, list[Located]]] = {}
        for located in wanted:
            if located.entry.type in (EntryType.FILE, EntryType.HARDLINK):
                file = self._indexes[located.layer].file(located.entry.path)
                if file is not None:
                    by_layer.setdefault(located.layer, {}).setdefault(file.path, []).append(located)
        for layer, files in sorted(by_layer.items()):
            yield from self._layer(layer, files)

    def _layer(self, layer: int, files: dict[str, list[Located]]) -> Iterator[tuple[tuple[Located, ...], Content]]:
        index = self._indexes[layer]
        with self._openers[layer]() as blob:
            stream = TarStream(decompress(blob, self._limits), hashed=False)
            for path in sorted(files, key=index.offset):
                entry = index.get(path)
                size = entry.size if entry is not None else 0
                content = Content(stream, size, path)
                if not stream.skip(index.offset(path) - stream.offset):
                    truncated(path)
                yield tuple(files[path]), content
                if not stream.skip(content.left):
                    truncated(path)

    @contextmanager
    def gather(
        self, wanted: Iterable[Located], scratch: Path | None = None, most: int | None = None
    ) -> Iterator[Contents]:
        """The same contents at once, to be opened in any order: copied into a file in `scratch` that has no name and
        goes with the context. Of each the first `most` bytes, if that is given."""
        places: dict[tuple[int, str], tuple[int, int]] = {}
        with tempfile.TemporaryFile(dir=scratch) as file:
            at = 0
            for located, content in self.stream(wanted):
                size = left = content.left if most is None else min(content.left, most)
                while left and (piece := content.read(min(CHUNK, left))):
                    left -= file.write(piece)
                places.update({(one.layer, one.entry.path): (at, size) for one in located})
                at += size
            file.flush()
            yield Contents(file.fileno(), places)
