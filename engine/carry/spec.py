"""--cache-from and --cache-to: where a cache that travels is, and what goes there."""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from pathlib import Path

from cache.carry.urls import without_login
from machinefile.values import dataclass

ALL_MOUNTS = "*"
"""In `mounts`: every cache mount of the build."""


class CacheType(Enum):
    """The kinds of place that a cache travels to."""

    REGISTRY = "registry"
    LOCAL = "local"
    INLINE = "inline"
    """In the image itself."""
    FSSPEC = "fsspec"
    """An object store."""

    def label(self, where: str) -> str:
        """What to call a place of that kind to the user."""
        match self:
            case CacheType.REGISTRY:
                return f"registry {where}"
            case CacheType.LOCAL:
                return f"folder {where}"
            case CacheType.INLINE:
                return "the image"
            case CacheType.FSSPEC:
                return without_login(where)


class CacheMode(Enum):
    """Which steps an export holds."""

    MIN = "min"
    """Those whose layers the image has."""
    MAX = "max"
    """Those of all stages that the target needs."""


@dataclass(frozen=True, slots=True)
class CacheSource:
    """One --cache-from."""

    type: CacheType
    where: str
    """A reference, canonical; a folder; a URL."""
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """`tag` of a folder; what a URL's file system is given, passwords perhaps."""
    verify_keys: tuple[Path, ...] = ()
    """Public keys: only what one of them signed counts. Empty: everything does."""

    @property
    def label(self) -> str:
        """What to call it to the user."""
        return self.type.label(self.where)


@dataclass(frozen=True, slots=True)
class CacheTarget:
    """One --cache-to."""

    type: CacheType
    where: str
    """As that of a CacheSource; empty for INLINE."""
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    mode: CacheMode = CacheMode.MIN
    mounts: tuple[str, ...] = ()
    """The ids of the cache mounts that go too, or ALL_MOUNTS."""
    sign_key: Path | None = None
    """The private key that entries are signed with."""
    ignore_error: bool = False
    """Whether a failure is a warning."""

    @property
    def label(self) -> str:
        """What to call it to the user."""
        return self.type.label(self.where)
