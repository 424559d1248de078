"""The names of the images in the store: the index.json of its OCI layout."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from cache.files import store_errors, write_atomically
from cache.locks import locked
from machinefile.values import dataclass

_REF_NAME = "org.opencontainers.image.ref.name"
_CREATED = "org.opencontainers.image.created"


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image that somebody wants kept."""

    name: str
    digest: str
    """Of its manifest."""
    size: int
    """Bytes of its manifest."""
    media_type: str
    kept: str = ""
    """When it got the name: RFC 3339, or empty where nobody wrote it down."""


class Names:
    """`index.json`: one descriptor a name. Read without a lock (it is replaced whole); changed under one."""

    def __init__(self, root: Path, locks: Path, temporary: Path) -> None:
        self._path = root / "index.json"
        self._locks = locks
        self._temporary = temporary

    def all(self) -> tuple[NamedImage, ...]:
        """Every named image, in the order of their names."""
        with store_errors("reading the names of images"):
            found = self._entries()
        return tuple(sorted((image for image in found or () if image), key=lambda image: image.name))

    def is_sound(self) -> bool:
        """Whether everything in the file, if there is one, is a named image."""
        with store_errors("reading the names of images"):
            found = self._entries()
        return found is not None and all(found)

    def get(self, name: str) -> NamedImage | None:
        """The image of that name."""
        return next((image for image in self.all() if image.name == name), None)

    def put(self, image: NamedImage) -> None:
        """Give an image its name, taking it from whichever image had it. One that has it keeps the time, too."""
        had = self.get(image.name)
        if had is None or not had.kept or replace(had, kept=image.kept) != image or not self.is_sound():
            self._change(image.name, image)

    def drop(self, name: str) -> None:
        """Forget a name."""
        self._change(name, None)

    def set_aside(self) -> tuple[Path, ...]:
        """Files that could not be read as names, kept for who wants to look after them."""
        return tuple(sorted(self._path.parent.glob(f"{self._path.name}.damaged.*")))

    def mend(self) -> None:
        """Write the file anew, of what can be read of it, if it is damaged; the damaged one is set aside."""
        if not self.is_sound():
            self._change("", None)

    def _entries(self) -> list[NamedImage | None] | None:
        """None for each that makes no sense, and for the whole if that does not. Raises OSError."""
        try:
            content = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (ValueError, RecursionError):
            return None
        match content:
            case {"manifests": list(manifests)}:
                return [_read(entry) for entry in manifests]
        return None

    def _save_damaged(self) -> None:
        """What cannot be read is about to be replaced: keep it."""
        if self.is_sound():
            return
        with store_errors("setting damaged names of images aside"):
            os.link(self._path, self._path.with_name(f"{self._path.name}.damaged.{os.urandom(6).hex()}"))

    def _change(self, name: str, image: NamedImage | None) -> None:
        with locked(self._locks, "image names"):
            self._save_damaged()
            kept = [old for old in self.all() if old.name != name] + ([image] if image else [])
            content = {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [_write(one) for one in sorted(kept, key=lambda one: one.name)],
            }
            with store_errors("writing the names of images"):
                write_atomically(self._path, json.dumps(content, indent=1).encode(), self._temporary)


def _read(entry: object) -> NamedImage | None:
    match entry:
        case {
            "digest": str(digest),
            "size": int(size),
            "mediaType": str(media_type),
            "annotations": {**annotations},
        }:
            name, kept = annotations.get(_REF_NAME), annotations.get(_CREATED, "")
            if isinstance(name, str):
                return NamedImage(name, digest, size, media_type, kept if isinstance(kept, str) else "")
    return None


def _write(image: NamedImage) -> dict[str, object]:
    annotations = {_REF_NAME: image.name} | ({_CREATED: image.kept} if image.kept else {})
    return {
        "mediaType": image.media_type,
        "digest": image.digest,
        "size": image.size,
        "annotations": annotations,
    }
