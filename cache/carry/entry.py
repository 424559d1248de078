"""What a cache that travels says of one step, or of one cache mount."""

from __future__ import annotations

import re

from cache.keys import canonical
from cache.results import StepResult
from machinefile.values import dataclass

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Signature:
    """Who vouches for an entry."""

    key_id: str
    """The sha256 of the public key (its raw 32 bytes), in hex."""
    value: str
    """The Ed25519 signature of the entry's payload, in base64."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The result of a step as it lies elsewhere."""

    key: str
    """The definition key."""
    content: str
    """The content key."""
    result: StepResult
    """Its layers' blobs are those that lie there: compressed, as images have them."""
    used: int = 0
    """The day (days since 1970) of the last export that had it. Not signed: it decides what is dropped, no more."""
    records: str = ""
    """The digest of the pack of records that has this step's; empty where none was sent."""
    signatures: tuple[Signature, ...] = ()

    def payload(self) -> bytes:
        """What is signed: everything that a build believes of an entry."""
        layers = tuple(
            None if layer is None else (layer.diff_id, layer.digest, layer.size, layer.media_type)
            for layer in self.result.steps
        )
        created = round(self.result.created)
        return canonical(("mbuild cache entry", 1, self.key, self.content, layers, created, self.records))


@dataclass(frozen=True, slots=True)
class CarriedMount:
    """A cache mount as it lies elsewhere."""

    identity: str
    """CacheRequest.identity of engine/cachemounts.py."""
    id: str
    """What the user calls it."""
    digest: str
    """Of the blob: the runs of the disk that hold something, compressed."""
    size: int
    """Bytes of the blob."""
    created: int
    """When it was sent: seconds since 1970."""
    signatures: tuple[Signature, ...] = ()

    def payload(self) -> bytes:
        """What is signed."""
        return canonical(("mbuild cache mount", 1, self.identity, self.id, self.digest, self.size, self.created))


@dataclass(frozen=True, slots=True)
class CarriedBlob:
    """A blob of the cache that is no layer: a pack of records."""

    digest: str
    size: int


def is_digest(text: object) -> bool:
    """Whether it is `sha256:` and 64 hex digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None
