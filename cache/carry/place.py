"""Where a cache that travels lies: a registry, a folder, an object store."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol

from cache.carry.index import CacheIndex
from machinefile.errors import TransferError

Sink = Callable[[bytes], object]
Change = Callable[[CacheIndex], CacheIndex]
Lost = Callable[[TransferError], object]


class CachePlace(Protocol):
    """One place. Threads may share it. Everything raises TransferError (UntrustedDataError for what is not what it
    should be), HostError for a folder that cannot be used, and InterruptedBuildError once the build is stopped."""

    @property
    def label(self) -> str:
        """What to call it to the user: `registry example.com/app:cache`."""
        ...

    def read(self) -> CacheIndex:
        """What is there now; an empty index where there is nothing yet. Reads no layers."""
        ...

    def known(self, lost: Lost) -> CacheIndex:
        """As `read`, for who adds to it: an index that `publish` would write anew, as it is damaged or gone, is empty,
        and `lost` is told why. What somebody else has there raises all the same."""
        ...

    def fetch(self, digest: str, size: int, sink: Sink) -> None:
        """Stream a blob, each byte once and in order. Who calls checks the digest; no more than `size` bytes come."""
        ...

    def has(self, digest: str, size: int) -> bool:
        """Whether a blob is there, or needs no sending."""
        ...

    def send(self, digest: str, size: int, media_type: str, open_blob: Callable[[], BinaryIO]) -> None:
        """Bring a blob there, unless it is there. `open_blob` is called only if it must be sent, perhaps again after a
        failure."""
        ...

    def publish(self, change: Change) -> bool:
        """Replace the index by what `change` makes of it, so that nothing that others put there meanwhile is lost:
        `change` may be called again. All blobs of the new index must be there. False when it changed nothing, and
        nothing was written."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
