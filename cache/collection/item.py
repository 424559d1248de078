"""What the store holds, as collection sees it: things, and who keeps them."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from pathlib import Path

from cache.index import Kind
from machinefile.values import dataclass

Entry = tuple[Kind, str]
"""An entry of the index: its kind and its key."""


class Sort(Enum):
    """What a thing is, as `--filter type=` names it."""

    IMAGE = "image"
    """An image with a name; also manifests and configurations."""
    STEP = "step"
    """The result of a step; what it takes up are its layers."""
    LAYER = "layer"
    """The layer of a step."""
    BASE = "base"
    """A base image, and its layers."""
    VARIANT = "variant"
    """A layer of a step as images have it, compressed."""
    REMOTE = "remote"
    """A file that ADD fetched."""
    BLOB = "blob"
    """A blob that nothing knows."""
    LISTING = "listing"
    """What is in a layer."""
    DISK = "disk"
    """A layer as microVMs get it."""
    MACHINE = "machine"
    TEMPLATE = "template"
    """A microVM as steps begin in it."""
    MOUNT = "mount"
    """The cache of a RUN --mount=type=cache."""
    CONTEXT = "context"
    """What the files of a build context hashed to."""
    ASIDE = "aside"
    """What was set aside: a damaged index, an older store."""
    OTHER = "other"
    """What the store itself takes up."""


class Standing(Enum):
    """What a thing is worth by itself."""

    KEPT = "kept"
    """It stays: somebody asked for it, or what it is tied to does."""
    CACHED = "cached"
    """It goes when room is wanted: it can be made or fetched again."""
    SPENT = "spent"
    """It is of no use any more."""


@dataclass(frozen=True, slots=True)
class Item:
    """A thing of the store."""

    sort: Sort
    id: str
    """A digest, a key, a name: no other of its sort has it."""
    title: str = ""
    """What to call it to people."""
    paths: tuple[Path, ...] = ()
    """Files and folders that go with it."""
    size: int = 0
    """Bytes of them on the disk."""
    created: float = 0.0
    used: float = 0.0
    """When it was last used, or made. Seconds since 1970, as `created`."""
    standing: Standing = Standing.KEPT
    tied: str = ""
    """A name that others keep: it is spent as soon as nothing that stays keeps that name."""
    keeps: frozenset[str] = field(default=frozenset(), repr=False)
    """The names that stay as long as it does: `blob sha256:...`, `diff sha256:...`, `machine ...`."""
    adds: frozenset[str] = field(default=frozenset(), repr=False)
    """Those of them that are of its own making: the last layer of a step."""
    entries: tuple[Entry, ...] = ()
    """Entries of the index that go with it."""
    lock: Path | None = None
    """A file that is to be flocked while it is taken away; where that cannot be done at once, somebody uses it."""
    noted: tuple[str, ...] = ()
    """What cache/uses.py calls its parts."""
    used_with: tuple[str, ...] = ()
    """What cache/uses.py calls the parts of others whose use is its own."""

    @property
    def name(self) -> str:
        """Its sort and id: no other thing has this name."""
        return f"{self.sort.value} {self.id}"


@dataclass(frozen=True, slots=True)
class Reference:
    """An entry of the index that speaks of things and keeps none of them."""

    entry: Entry
    names: frozenset[str]
    """Those it speaks of, as Item.tied or Item.name: it goes as soon as one of them is not there."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Everything in the store at a moment."""

    items: tuple[Item, ...]
    references: tuple[Reference, ...]
    guard: float
    """What was used or made from then on (seconds since 1970) may be needed by a process that runs."""
    taken: float = 0.0
    """When one began to look: what came to the store before is all here. Seconds since 1970."""

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        return sum(item.size for item in self.items)


def blob(digest: str) -> str:
    """What keeps a blob keeps this name."""
    return f"blob {digest}"


def diff(diff_id: str) -> str:
    """What keeps a layer, in whatever form, keeps this name."""
    return f"diff {diff_id}"


def machine(key: str) -> str:
    """What keeps a machine keeps this name."""
    return f"machine {key}"
