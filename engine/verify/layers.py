"""Which files two layers do not have in common, and how the common ones differ.

Each layer is read three times at most, as a stream: for its index, for the digests of files of equal size, and for the
contents of those differing files that are looked into.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from engine.layers.content import BlobOpener, Contents, LayerFiles
from engine.layers.entry import Entry, EntryType
from engine.layers.index import LayerIndex
from engine.layers.layerdisk import prepare_layer
from engine.layers.limits import LayerLimits
from engine.layers.root import Located
from engine.verify.causes import guess, guess_content, guess_path, guess_presence
from engine.verify.difference import Aspect, Cause, Change, FileDifference
from engine.verify.inside import MOST_BYTES, innermost
from engine.verify.shown import diff_of
from machinefile.errors import InterruptedBuildError
from machinefile.values import dataclass

MOST_FILES = 200
"""Files that are named."""
MOST_READ = 20
"""Files that are looked into."""
_MOST_VALUE = 32
"""Bytes of an attribute's value that are shown."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of two layers."""

    diff_id: str
    """Empty for a step that made no layer."""
    open: BlobOpener | None
    limits: LayerLimits

    def index(self) -> LayerIndex | None:
        """What is in it; None for no layer. Raises UntrustedDataError."""
        if self.open is None:
            return None
        with self.open() as blob:
            return prepare_layer(blob, diff_id=self.diff_id, limits=self.limits).index  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """What differs between two layers."""

    files: tuple[FileDifference, ...]
    more: int
    """Files beside those."""


def compare_layers(
    first: Side,
    second: Side,
    scratch: Path | None = None,
    cancelled: threading.Event | None = None,
    hidden: Sequence[bytes] = (),
) -> LayerDifference:
    """Compare layers that are not the same, files by path. `scratch` is for a nameless temporary file; of a content
    that has one of `hidden` in it nothing is shown.

    Raises UntrustedDataError, InterruptedBuildError, and as the openers.
    """
    sides = _Open.of(first, cancelled), _Open.of(second, cancelled)
    paths = sorted({*sides[0].paths, *sides[1].paths}, key=lambda path: path.encode("utf-8", "surrogateescape"))
    same_size = [path for path in paths if _may_equal(sides[0].get(path), sides[1].get(path))]
    digests = sides[0].digests(same_size), sides[1].digests(same_size)
    found: list[FileDifference] = []
    more = 0
    for path in paths:
        differing = digests[0].get(path) != digests[1].get(path)
        changes = _changes(sides[0].get(path), sides[1].get(path), hidden, differing=differing)
        if changes and len(found) < MOST_FILES:
            found.append(_judged(path, changes))
        elif changes:
            more += 1
    if not found:
        found = list(_unseen(sides))
    return LayerDifference(tuple(_looked_into(found, sides, scratch, hidden)), more)


class _Open:
    """A layer that is being compared."""

    def __init__(self, side: Side, index: LayerIndex | None, cancelled: threading.Event | None) -> None:
        self._side = side
        self._index = index
        self._cancelled = cancelled

    @classmethod
    def of(cls, side: Side, cancelled: threading.Event | None) -> _Open:
        return cls(side, side.index(), cancelled)

    @property
    def paths(self) -> Sequence[str]:
        return self._index.paths if self._index is not None else ()

    def get(self, path: str) -> Entry | None:
        return self._index.get(path) if self._index is not None else None

    def order(self) -> list[str]:
        """The files with content as the tar has them."""
        index = self._index
        if index is None:
            return []
        files = [entry.path for entry in index if entry.type is EntryType.FILE and entry.size]
        return sorted(files, key=index.offset)

    @property
    def files(self) -> LayerFiles:
        if self._index is None or self._side.open is None:
            return LayerFiles((), ())
        return LayerFiles((self._index,), (self._side.open,), self._side.limits)

    def located(self, paths: Sequence[str]) -> Iterator[Located]:
        for path in paths:
            entry = self.get(path)
            if entry is not None and entry.type is EntryType.FILE:
                yield Located(entry, 0)

    def digests(self, paths: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for located, content in self.files.stream(self.located(paths)) if paths else ():
            hasher = hashlib.sha256()
            for piece in content.chunks():
                if self._cancelled is not None and self._cancelled.is_set():
                    raise InterruptedBuildError
                hasher.update(piece)
            found.update((one.entry.path, hasher.digest()) for one in located)
        return found


def _may_equal(first: Entry | None, second: Entry | None) -> bool:
    if first is None or second is None or not first.type is second.type is EntryType.FILE:
        return False
    return first.size == second.size > 0


def _changes(
    first: Entry | None, second: Entry | None, hidden: Sequence[bytes], *, differing: bool
) -> tuple[Change, ...]:
    if first is None or second is None:
        there = first or second
        what = there.type.value if there is not None else ""
        return (Change(Aspect.PRESENCE, what if first else "", what if second else ""),)
    found = []

    def add(aspect: Aspect, one: object, other: object) -> None:
        if one != other:
            found.append(Change(aspect, str(one), str(other)))

    add(Aspect.TYPE, first.type.value, second.type.value)
    add(Aspect.MODE, f"{first.mode:04o}", f"{second.mode:04o}")
    add(Aspect.OWNER, f"{first.uid}:{first.gid}", f"{second.uid}:{second.gid}")
    if first.type is second.type:
        add(Aspect.SIZE, first.size, second.size)
    add(Aspect.LINK, first.link, second.link)
    add(Aspect.DEVICE, first.device, second.device)
    if first.xattrs != second.xattrs:
        found.append(Change(Aspect.XATTR, *_attributes(first, second, hidden)))
    add(Aspect.OPAQUE, first.opaque, second.opaque)
    if differing or (first.type is second.type is EntryType.FILE and first.size != second.size):
        found.append(Change(Aspect.CONTENT, "", ""))
    add(Aspect.TIME, first.mtime, second.mtime)
    return tuple(found)


def _attributes(first: Entry, second: Entry, hidden: Sequence[bytes]) -> tuple[str, str]:
    """Those that are not in both, the beginnings of their values in hex."""

    def said(name: str, value: bytes) -> str:
        shown = "***" if any(secret in value for secret in hidden) else value[:_MOST_VALUE].hex()
        return f"{name}={shown}{'…' if len(value) > _MOST_VALUE else ''}"

    both = {*first.xattrs} & {*second.xattrs}
    one, other = (
        " ".join(said(*attribute) for attribute in entry.xattrs if attribute not in both) for entry in (first, second)
    )
    return one, other


def _judged(path: str, changes: tuple[Change, ...]) -> FileDifference:
    """What can be guessed without looking into it."""
    aspects = {change.aspect for change in changes}
    found = None
    if Aspect.PRESENCE in aspects:
        found = guess_presence(path)
    elif aspects == {Aspect.TIME}:
        mend = (
            "build both with mbuild and the same SOURCE_DATE_EPOCH, or none, and without --timestamps=keep: "
            "all files of a layer have one time then"
        )
        found = guess(Cause.TIMESTAMP, "only the time of the file differs", mend)
    elif Aspect.CONTENT in aspects:
        found = guess_path(path)
    return FileDifference(path, changes, guess=found)


def _unseen(sides: tuple[_Open, _Open]) -> Iterator[FileDifference]:
    """What is left when all entries are the same: their order, or how the tar writes them."""
    for one, other in zip(sides[0].order(), sides[1].order(), strict=False):
        if one != other:
            why = guess(Cause.ORDERING, "the same files in another order in the layer", "rebuild both with mbuild")
            yield FileDifference(one, (Change(Aspect.ORDER, one, other),), guess=why)
            return
    if sides[0].paths or sides[1].paths:
        yield FileDifference("", (Change(Aspect.HEADER, "", ""),))


def _looked_into(
    found: Sequence[FileDifference], sides: tuple[_Open, _Open], scratch: Path | None, hidden: Sequence[bytes]
) -> Iterator[FileDifference]:
    """The same with the contents compared, of the first ones."""
    wanted = [one.path for one in found if any(change.aspect is Aspect.CONTENT for change in one.changes)][:MOST_READ]
    located = tuple({one.entry.path: one for one in side.located(wanted)} for side in sides)
    if not wanted:
        yield from found
        return
    with (
        sides[0].files.gather(located[0].values(), scratch, MOST_BYTES) as first,
        sides[1].files.gather(located[1].values(), scratch, MOST_BYTES) as second,
    ):
        for one in found:
            if one.path in located[0] and one.path in located[1]:
                pair = _read(first, located[0][one.path]), _read(second, located[1][one.path])
                yield _compared(one, *pair, hidden)
            else:
                yield one


def _read(contents: Contents, located: Located) -> bytes:
    return contents.open(located).read(MOST_BYTES)


def _compared(difference: FileDifference, first: bytes, second: bytes, hidden: Sequence[bytes]) -> FileDifference:
    part = innermost(first, second)
    if any(secret in content for secret in hidden for content in (first, second, part.first, part.second)):
        return replace(difference, inner=part.inner)
    found = part.guess or difference.guess or guess_content(difference.path, part.first, part.second)
    return replace(difference, inner=part.inner, diff=diff_of(part.first, part.second), guess=found)
