"""The index of a cache that travels: every entry, in one document."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from typing import TypeVar

from cache.carry.entry import CacheEntry, CarriedBlob, CarriedMount, Signature, is_digest
from cache.results import MOST_SECONDS, Layer, StepResult
from machinefile.errors import UntrustedDataError
from machinefile.values import dataclass

_T = TypeVar("_T")

VERSION = 1
MEDIA_TYPE = "application/vnd.mbuild.cache.index.v1+json+zstd"
MAX_BYTES = 64 << 20
"""Of the document, decompressed."""
MOST_ENTRIES = 20_000
MOST_LAYERS = 10_000
"""Different blobs, packs of records among them: a registry's manifest that lists them has to stay below 4 MiB."""
MOST_MOUNTS = 1000
MOST_STEPS = 300_000
"""Places in results, of all entries together: with the other bounds this keeps a document below MAX_BYTES."""
MOST_SIGNATURES = 8
"""Of an entry."""

_MOST_LISTS = 500_000
_MOST_VALUES = 1_500_000
"""What decides how much memory a document takes is how many values it has: so many no index within the bounds has."""
_MOST_DAYS = MOST_SECONDS // 86400
_MOST_SIZE = 1 << 50
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+/-]{1,127}")
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[A-Za-z0-9+/]{86}==")
_MOST_ID = 512


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
        """Both; where both know a step, what `newer` says of it. So it is with blobs: an entry here that says otherwise
        of one is left out, as the document has room for one truth a blob."""
        known = newer.layers()
        agreeing = {
            key: entry
            for key, entry in self.entries.items()
            if all(known.get(layer.digest, layer) == layer for layer in entry.result.layers)
        }
        return CacheIndex(
            {**agreeing, **newer.entries},
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
        steps = 0
        for entry in newest:
            wanted = {layer.digest for layer in entry.result.layers} | ({entry.records} & self.packs.keys())
            more = len(wanted - blobs)
            if len(blobs) + more <= MOST_LAYERS and steps + len(entry.result.steps) <= MOST_STEPS:
                blobs |= wanted
                steps += len(entry.result.steps)
                kept[entry.key] = entry
            if len(kept) == MOST_ENTRIES:
                break
        mounts = sorted(self.mounts.values(), key=lambda mount: (-mount.created, mount.identity))[:MOST_MOUNTS]
        needed = {entry.records for entry in kept.values()}
        return CacheIndex(
            dict(sorted(kept.items())),
            {mount.identity: mount for mount in sorted(mounts, key=lambda mount: mount.identity)},
            {digest: pack for digest, pack in self.packs.items() if digest in needed},
            {digest: name for digest, name in self.packings.items() if digest in blobs},
        )

    def since(self, older: CacheIndex) -> CacheIndex:
        """What is new or changed here, with all that it needs: `older.merged` of it has everything of both."""
        packs = {digest for digest, pack in self.packs.items() if older.packs.get(digest) != pack}
        packings = {digest for digest, name in self.packings.items() if older.packings.get(digest) != name}
        entries = {
            key: entry
            for key, entry in self.entries.items()
            if older.entries.get(key) != entry
            or entry.records in packs
            or any(layer.digest in packings for layer in entry.result.layers)
        }
        mounts = {name: mount for name, mount in self.mounts.items() if older.mounts.get(name) != mount}
        return CacheIndex(entries, mounts, self.packs, self.packings).trimmed()

    def only(self, wanted: Callable[[CacheEntry | CarriedMount], bool]) -> CacheIndex:
        """The entries and mounts for which `wanted` says yes."""
        return replace(
            self,
            entries={key: entry for key, entry in self.entries.items() if wanted(entry)},
            mounts={identity: mount for identity, mount in self.mounts.items() if wanted(mount)},
        )

    def whole(self, there: Mapping[str, int]) -> CacheIndex:
        """Only what has all its blobs among these (digest to size); a step may have lost its record."""

        def has(digest: str, size: int) -> bool:
            return there.get(digest) == size

        return CacheIndex(
            {
                k: one
                for k, one in self.entries.items()
                if all(has(each.digest, each.size) for each in one.result.layers)
            },
            {identity: mount for identity, mount in self.mounts.items() if has(mount.digest, mount.size)},
            {digest: pack for digest, pack in self.packs.items() if has(digest, pack.size)},
            self.packings,
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
    document = _document(data)
    match document:
        case {"version": version} if version != VERSION:
            raise UntrustedDataError(
                f"{what} is a cache of the form {str(version)[:20]!r}; this mbuild knows {VERSION}",
                code="cache-version",
                hint="name another place for this version's cache",
            )
        case {"layers": {**layers}, "entries": {**entries}, "mounts": {**mounts}, "packs": {**packs}}:
            known = _by(lambda layer: layer.digest, (_layer(str(name), value) for name, value in layers.items()))
            found = _by(lambda entry: entry.key, (_entry(str(name), value, known) for name, value in entries.items()))
            used = {layer.digest for entry in found.values() for layer in entry.result.layers}
            index = CacheIndex(
                found,
                _by(lambda mount: mount.identity, (_mount(str(name), value) for name, value in mounts.items())),
                _by(lambda pack: pack.digest, (_pack(str(name), value) for name, value in packs.items())),
                {digest: packing for digest in known if digest in used and (packing := _packing(layers[digest]))},
            )
            return index.trimmed() if _too_much(index) else index
    raise UntrustedDataError(
        f"{what} is no cache of mbuild: its index is no such document",
        code="cache-invalid",
        hint="name a place that mbuild wrote a cache to",
    )


def _document(data: bytes) -> object:
    """The JSON, None for what is none or would take too much memory."""
    if len(data) > MAX_BYTES or data.count(b"{") + data.count(b"[") > _MOST_LISTS or data.count(b",") > _MOST_VALUES:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _too_much(index: CacheIndex) -> bool:
    return (
        len(index.entries) > MOST_ENTRIES
        or len(index.mounts) > MOST_MOUNTS
        or len(index.blobs()) > MOST_LAYERS
        or sum(len(entry.result.steps) for entry in index.entries.values()) > MOST_STEPS
    )


def _whole(value: object, most: int) -> bool:
    """Whether it is a whole number from 0 to `most`: JSON's true and false are numbers to Python."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


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
        } if (
            is_digest(key)
            and is_digest(content)
            and (is_digest(records) or not records)
            and _whole(created, MOST_SECONDS)
            and _whole(used, _MOST_DAYS)
            and not isinstance(seconds, bool)
            and 0 <= seconds <= MOST_SECONDS
            and all(step is None or (isinstance(step, str) and step in layers) for step in steps)
        ):
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
        } if (
            is_digest(f"sha256:{identity}")
            and is_digest(digest)
            and _whole(size, _MOST_SIZE)
            and _whole(created, MOST_SECONDS)
            and len(name) <= _MOST_ID
            and name.isprintable()
        ):
            return CarriedMount(identity, name, digest, size, created, _signatures(signatures))
    return None


def _layer(digest: str, value: object) -> Layer | None:
    match value:
        case [str(diff_id), int(size), str(media_type), str()] if (
            _whole(size, _MOST_SIZE) and is_digest(digest) and is_digest(diff_id) and _MEDIA_TYPE.fullmatch(media_type)
        ):
            return Layer(diff_id, digest, size, media_type)
    return None


def _packing(value: object) -> str:
    match value:
        case [_, _, _, str(packing)] if len(packing) <= _MOST_ID and packing.isprintable():
            return packing
    return ""


def _pack(digest: str, size: object) -> CarriedBlob | None:
    if is_digest(digest) and isinstance(size, int) and _whole(size, _MOST_SIZE):
        return CarriedBlob(digest, size)
    return None


def _signatures_json(signatures: Iterable[Signature]) -> list[list[str]]:
    return [[one.key_id, one.value] for one in signatures]


def _signatures(values: list[object]) -> tuple[Signature, ...]:
    found = []
    for value in values[:MOST_SIGNATURES]:
        match value:
            case [str(key_id), str(signature)] if _KEY_ID.fullmatch(key_id) and _SIGNATURE.fullmatch(signature):
                found.append(Signature(key_id, signature))
    return tuple(found)
