"""What `docker save` writes. Source: Docker image spec v1.2, "Combined Image JSON + Filesystem Changeset Format"."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from engine.images import mediatype
from engine.images.config import MAX_CONFIG_BYTES, parse_configuration
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.files import Files, read_small
from engine.images.jsonvalue import JsonObject
from engine.images.manifest import MAX_LAYERS, MAX_MANIFEST_BYTES, Manifest
from engine.images.reference import Reference
from machinefile.errors import TransferError, UntrustedDataError, UsageError
from machinefile.values import dataclass

_MANIFEST_FILE = "manifest.json"
_INVALID = "archive-invalid"


@dataclass(frozen=True, slots=True)
class _Saved:
    """One image as manifest.json lists it: names of files in the archive."""

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


class DockerArchive:
    """One image of an archive, given the OCI manifest that it lacks.

    The manifest is made from the configuration and the layers as they are, so the same archive always gives the
    same digest. Raises TransferError (`image-not-found`, `image-ambiguous`) and UntrustedDataError (`archive-invalid`,
    `digest-mismatch`, `config-invalid`).
    """

    def __init__(self, files: Files, where: str, name: str = "") -> None:
        """`where` is the archive's path, `name` the image wanted."""
        self._files = files
        self._where = where
        saved = self._choose(name)
        self._config = self._small(saved.config)
        layers = self._layers(saved)
        config = Descriptor(mediatype.OCI_CONFIG, digest_of(self._config), len(self._config))
        self._manifest = Manifest(config, tuple(layers)).to_json()
        self._members = {layer.digest: name for layer, name in zip(layers, saved.layers, strict=True)}

    @staticmethod
    def is_in(files: Files) -> bool:
        """Whether there is a manifest.json."""
        return files.size(_MANIFEST_FILE) is not None

    def root(self) -> Descriptor:
        """The manifest made for it."""
        return Descriptor(mediatype.OCI_MANIFEST, digest_of(self._manifest), len(self._manifest))

    def read(self, descriptor: Descriptor, limit: int) -> bytes:
        """The manifest or the configuration."""
        small = {digest_of(data): data for data in (self._manifest, self._config)}
        if descriptor.digest not in small or len(small[descriptor.digest]) > limit:
            raise self._wrong(f"the blob {descriptor.digest} is not to be had")
        return small[descriptor.digest]

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A layer's bytes, not verified."""
        name = self._members.get(descriptor.digest)
        if name is None:
            raise self._wrong(f"the blob {descriptor.digest} is missing")
        return self._files.chunks(name, descriptor.size + 1)

    def _choose(self, name: str) -> _Saved:
        images = self._listed()
        tags = sorted(tag for image in images for tag in image.tags)
        listed = f"it has {', '.join(tags[:20])}" if tags else "nothing in it has a name"
        if name:
            wanted = _full(name)
            found = [image for image in images if wanted in map(_full, image.tags)]
            if not found:
                raise TransferError(
                    f"{self._where} has no image {name}; {listed}", code="image-not-found", hint="check the name"
                )
            return found[0]
        if len(images) != 1:
            raise TransferError(
                f"{self._where} has {len(images)} images, and no name says which is meant: {listed}",
                code="image-ambiguous",
                hint="write docker-archive:PATH:NAME",
            )
        return images[0]

    def _listed(self) -> tuple[_Saved, ...]:
        data = self._small(_MANIFEST_FILE, MAX_MANIFEST_BYTES)
        try:
            entries = json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"{_MANIFEST_FILE} is not JSON") from error
        holder = JsonObject({"images": entries}, f"{_MANIFEST_FILE} in {self._where}", _INVALID)
        return tuple(
            _Saved(entry.text("Config"), entry.texts("RepoTags"), entry.texts("Layers"))
            for entry in holder.children("images")
        )

    def _layers(self, saved: _Saved) -> list[Descriptor]:
        diff_ids = parse_configuration(self._config, f"the configuration in {self._where}").diff_ids
        if len(saved.layers) != len(diff_ids) or len(diff_ids) > MAX_LAYERS:
            raise self._wrong(f"it has {len(saved.layers)} layers, its configuration {len(diff_ids)}")
        return [self._layer(name, diff_id) for name, diff_id in zip(saved.layers, diff_ids, strict=True)]

    def _layer(self, name: str, diff_id: str) -> Descriptor:
        size = self._files.size(name)
        if size is None:
            raise self._wrong(f"there is no {name}")
        kind = mediatype.layer_type(b"".join(self._files.chunks(name, 4)))
        if kind == mediatype.OCI_LAYER:
            return Descriptor(kind, diff_id, size)  # its digest is its diff id, or it will be refused when it is read
        summed = hashlib.sha256()
        for chunk in self._files.chunks(name, size):
            summed.update(chunk)
        return Descriptor(kind, f"sha256:{summed.hexdigest()}", size)

    def _small(self, name: str, limit: int = MAX_CONFIG_BYTES) -> bytes:
        data = read_small(self._files, name, limit, self._where)
        if data is None:
            raise self._wrong(f"there is no {name[:200]!r}")
        return data

    def _wrong(self, reason: str) -> UntrustedDataError:
        return UntrustedDataError(
            f"the archive {self._where} cannot be used: {reason}",
            code=_INVALID,
            hint="make it again, with docker save, podman save or skopeo copy",
        )


def _full(name: str) -> str:
    """A name with everything filled in, so that `debian` finds `docker.io/library/debian:latest`."""
    try:
        return str(Reference.parse(name))
    except UsageError:
        return name
