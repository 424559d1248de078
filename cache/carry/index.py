"""The index of a cache that travels: every entry, in one document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from cache.carry.entry import CacheEntry, CarriedBlob, CarriedMount, Signature, is_digest
from cache.results import Layer, StepResult
from machinefile.errors import UntrustedDataError

_T = TypeVar("_T")

VERSION = 1
MEDIA_TYPE = "application/vnd.mbuild.cache.index.v1+json+zstd"
MAX_BYTES = 64 << 20
"""Of the document, decompressed."""
MOST_ENTRIES = 20_000
MOST_LAYERS = 10_000
"""Different blobs: a registry's manifest that lists them has to stay below 4 MiB."""


@dataclass(frozen=True, slots=True)
class CacheIndex:
    """What lies in one place. Never changed: an export makes a new one."""

    entries: Mapping[str, CacheEntry] = field(default_factory=dict)
    """By definition key."""
    mounts: Mapping[str, CarriedMount] = field(default_factory=dict)
    """By identity."""
    packs: Mapping[str, CarriedBlob] = field(default_factory=dict)
    """The packs of records, by digest."""
    packings: Mapping[str, str] = field(default_factory=dict)
    """How the blob of a layer was compressed, by its digest, in the words of who did: a layer compressed elsewhere may
    go into an image only where it would have been compressed to the same bytes here."""

    def layers(self) -> dict[str, Layer]:
        """Every layer that an entry has, by the digest of its blob."""
        return {layer.digest: layer for entry in self.entries.values() for layer in entry.result.layers}

    def blobs(self) -> dict[str, int]:
        """Every blob that must be there, and its size (bytes)."""
        found = {layer.digest: layer.size for layer in self.layers().values()}
        found.update((mount.digest, mount.size) for mount in self.mounts.values())
        found.update((pack.digest, pack.size) for pack in self.packs.values())
        return found

    def merged(self, newer: CacheIndex) -> CacheIndex:
        """Both; where both know a step, what `newer` says of it."""
        return CacheIndex(
            {**self.entries, **newer.entries},
            {**self.mounts, **newer.mounts},
            {**self.packs, **newer.packs},
            {**self.packings, **newer.packings},
        ).trimmed()

    def trimmed(self) -> CacheIndex:
        """Without the entries that were not used for longest, where there are too many, and without packs of records
        that no entry is left for."""
        newest = sorted(self.entries.values(), key=lambda entry: (-entry.used, entry.key))
        kept: dict[str, CacheEntry] = {}
        blobs: set[str] = set()
        for entry in newest[:MOST_ENTRIES]:
            wanted = {layer.digest for layer in entry.result.layers}
            if len(blobs | wanted) <= MOST_LAYERS:
                blobs |= wanted
                kept[entry.key] = entry
        needed = {entry.records for entry in kept.values()}
        packs = {digest: pack for digest, pack in self.packs.items() if digest in needed}
        packings = {digest: name for digest, name in self.packings.items() if digest in blobs}
        return replace(self, entries=dict(sorted(kept.items())), packs=packs, packings=packings)

    def only(self, wanted: Callable[[CacheEntry | CarriedMount], bool]) -> CacheIndex:
        """The entries and mounts for which `wanted` says yes."""
        return replace(
            self,
            entries={key: entry for key, entry in self.entries.items() if wanted(entry)},
            mounts={identity: mount for identity, mount in self.mounts.items() if wanted(mount)},
        )

    def to_json(self) -> bytes:
        """The document, plain. Equal indexes give equal bytes."""
        document = {
            "version": VERSION,
            "layers": {
                layer.digest: [layer.diff_id, layer.size, layer.media_type, self.packings.get(layer.digest, "")]
                for layer in self.layers().values()
            },
            "entries": {entry.key: _entry_json(entry) for entry in self.entries.values()},
            "mounts": {mount.identity: _mount_json(mount) for mount in self.mounts.values()},
            "packs": {pack.digest: pack.size for pack in self.packs.values()},
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def parse_index(data: bytes, what: str) -> CacheIndex:
    """Read a document; entries that make no sense are left out, so that one bad entry does not cost the others.

    Raises UntrustedDataError (`cache-invalid`, `cache-version`) for what is no index; `what` names it to the user.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"version": version} if version != VERSION:
            raise UntrustedDataError(
                f"{what} is a cache of the form {str(version)[:20]!r}; this mbuild knows {VERSION}",
                code="cache-version",
                hint="name another place for this version's cache",
            )
        case {"layers": {**layers}, "entries": {**entries}, "mounts": {**mounts}, "packs": {**packs}}:
            known = _by(lambda layer: layer.digest, (_layer(str(name), value) for name, value in layers.items()))
            return CacheIndex(
                _by(lambda entry: entry.key, (_entry(str(name), value, known) for name, value in entries.items())),
                _by(lambda mount: mount.identity, (_mount(str(name), value) for name, value in mounts.items())),
                _by(lambda pack: pack.digest, (_pack(str(name), value) for name, value in packs.items())),
                {digest: packing for digest in known if (packing := _packing(layers[digest]))},
            )
    raise UntrustedDataError(f"{what} is no cache of mbuild", code="cache-invalid")


def _by(name: Callable[[_T], str], found: Iterable[_T | None]) -> dict[str, _T]:
    return {name(one): one for one in found if one is not None}


def _entry_json(entry: CacheEntry) -> dict[str, object]:
    return {
        "content": entry.content,
        "steps": [layer and layer.digest for layer in entry.result.steps],
        "seconds": entry.result.seconds,
        "created": round(entry.result.created),
        "used": entry.used,
        "records": entry.records,
        "signatures": _signatures_json(entry.signatures),
    }


def _entry(key: str, value: object, layers: Mapping[str, Layer]) -> CacheEntry | None:
    match value:
        case {
            "content": str(content),
            "steps": list(steps),
            "seconds": int() | float() as seconds,
            "created": int(created),
            "used": int(used),
            "records": str(records),
            "signatures": list(signatures),
        } if is_digest(key) and is_digest(content) and all(step is None or step in layers for step in steps):
            result = StepResult(
                tuple(None if step is None else layers[step] for step in steps), float(seconds), float(created)
            )
            return CacheEntry(key, content, result, used, records, _signatures(signatures))
    return None


def _mount_json(mount: CarriedMount) -> dict[str, object]:
    return {
        "id": mount.id,
        "digest": mount.digest,
        "size": mount.size,
        "created": mount.created,
        "signatures": _signatures_json(mount.signatures),
    }


def _mount(identity: str, value: object) -> CarriedMount | None:
    match value:
        case {
            "id": str(name),
            "digest": str(digest),
            "size": int(size),
            "created": int(created),
            "signatures": list(signatures),
        } if is_digest(f"sha256:{identity}") and is_digest(digest) and size >= 0:
            return CarriedMount(identity, name, digest, size, created, _signatures(signatures))
    return None


def _layer(digest: str, value: object) -> Layer | None:
    match value:
        case [str(diff_id), int(size), str(media_type), _] if size >= 0 and is_digest(digest) and is_digest(diff_id):
            return Layer(diff_id, digest, size, media_type)
    return None


def _packing(value: object) -> str:
    match value:
        case [_, _, _, str(packing)]:
            return packing
    return ""


def _pack(digest: str, size: object) -> CarriedBlob | None:
    return CarriedBlob(digest, size) if is_digest(digest) and isinstance(size, int) and size >= 0 else None


def _signatures_json(signatures: Iterable[Signature]) -> list[list[str]]:
    return [[one.key_id, one.value] for one in signatures]


def _signatures(values: list[object]) -> tuple[Signature, ...]:
    found = []
    for value in values[:16]:
        match value:
            case [str(key_id), str(signature)]:
                found.append(Signature(key_id, signature))
    return tuple(found)
