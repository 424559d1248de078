"""An OCI layout that is read. Source: OCI image spec, image-layout.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.images import mediatype
from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of, hex_part
from engine.images.download import mismatch
from engine.images.files import Files, read_small
from engine.images.jsonvalue import JsonObject
from engine.images.manifest import MAX_MANIFEST_BYTES, Index, Manifest, parse_index, parse_manifest
from engine.images.selection import MAX_DEPTH
from machinefile.errors import TransferError, UntrustedDataError

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that holds a tag."""
IMAGE_NAME = "io.containerd.image.name"
"""The annotation that holds a whole name."""
LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
VERSION = "1.0.0"


def blob_name(digest: str) -> str:
    """Where a blob stands in a layout."""
    return f"blobs/sha256/{hex_part(digest)}"


class OciLayout:
    """The images of a layout.

    Raises TransferError (`image-not-found`, `image-ambiguous`, `blob-not-found`) and UntrustedDataError
    (`layout-invalid`, `manifest-*`, `digest-mismatch`, `file-too-large`).
    """

    def __init__(self, files: Files, name: str) -> None:
        """`name` is what messages call it: its path."""
        self._files = files
        self._name = name
        self._made: dict[str, bytes] = {}

    def index(self) -> Index:
        """Its index.json, once the layout's version is checked."""
        marker = read_small(self._files, LAYOUT_FILE, 4096, self._name)
        data = read_small(self._files, INDEX_FILE, MAX_MANIFEST_BYTES, self._name)
        if marker is None or data is None:
            missing = LAYOUT_FILE if marker is None else INDEX_FILE
            raise TransferError(
                f"{self._name} is not an OCI layout: it has no file {missing}",
                code="image-not-found",
                hint="check the path; skopeo copy ... oci:PATH:TAG makes a layout",
            )
        where = f"{LAYOUT_FILE} in {self._name}"
        version = JsonObject.parse(marker, where, "layout-invalid", 4096).text("imageLayoutVersion")
        if version != VERSION:
            raise UntrustedDataError(f"{where} has the version {version!r}, not {VERSION}", code="layout-invalid")
        return parse_index(data, f"{INDEX_FILE} in {self._name}")

    def find(self, tag: str = "", digest: str = "") -> Descriptor:
        """The manifest or index that is meant; without tag and digest the only image there is, or `latest`."""
        index = self.index()
        if digest:
            return self._by_digest(index, digest)
        wanted = tag or "latest"
        entries = tuple(entry for entry in index.manifests if wanted in _names(entry))
        if not entries and not tag and len({name for e in index.manifests for name in _names(e)[:1]}) <= 1:
            entries = index.manifests
        if not entries:
            raise self._not_found(tag, index)
        return entries[0] if len(entries) == 1 else self._joined(entries)

    def complete(self, root: Descriptor, depth: int = MAX_DEPTH) -> Descriptor | None:
        """What of an image is here with all its blobs: the same, an index of fewer, or None.

        Newer versions of docker save write an index that names platforms whose blobs they leave out.
        """
        if not self.has(root):
            return None
        parsed = parse_manifest(self.read(root, MAX_MANIFEST_BYTES), f"the manifest {root.digest} in {self._name}")
        if isinstance(parsed, Manifest):
            return root if all(map(self.has, (parsed.config, *parsed.layers))) else None
        if not depth:
            return None
        found = [(entry, self.complete(entry, depth - 1)) for entry in parsed.manifests]
        kept = tuple(replace(part, platform=entry.platform) for entry, part in found if part is not None)
        if kept == parsed.manifests:
            return root
        return self._joined(kept) if kept else None

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there."""
        return descriptor.digest in self._made or self._files.size(blob_name(descriptor.digest)) is not None

    def read(self, descriptor: Descriptor, limit: int) -> bytes:
        """A small blob, verified."""
        made = self._made.get(descriptor.digest)
        if made is not None:
            return made
        data = read_small(self._files, blob_name(descriptor.digest), limit, self._name)
        if data is None:
            raise self._missing(descriptor)
        actual = digest_of(data)
        if actual != descriptor.digest:
            raise mismatch(f"the blob in {self._name}", descriptor.digest, actual)
        return data

    def chunks(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob's bytes, not verified; at most one more than its size."""
        if not self.has(descriptor):
            raise self._missing(descriptor)
        return self._files.chunks(blob_name(descriptor.digest), descriptor.size + 1)

    def _by_digest(self, index: Index, digest: str) -> Descriptor:
        for entry in index.manifests:
            if entry.digest == digest:
                return entry
        size = self._files.size(blob_name(digest))
        if size is None:
            raise self._not_found(digest, index)
        return Descriptor("", digest, size)

    def _joined(self, entries: tuple[Descriptor, ...]) -> Descriptor:
        """Several manifests of one name are an index that nobody wrote down."""
        data = Index(entries).to_json()
        descriptor = Descriptor(mediatype.OCI_INDEX, digest_of(data), len(data))
        self._made[descriptor.digest] = data
        return descriptor

    def _not_found(self, wanted: str, index: Index) -> TransferError:
        tags = sorted({name for entry in index.manifests for name in _names(entry)[:1]})
        listed = f"it has {', '.join(tags[:20])}" if tags else "nothing in it has a tag"
        if not wanted:
            return TransferError(
                f"{self._name} has several images, and no tag says which is meant: {listed}",
                code="image-ambiguous",
                hint="write oci-layout:PATH:TAG",
            )
        return TransferError(
            f"{self._name} has no image {wanted}; {listed}", code="image-not-found", hint="check the tag"
        )

    def _missing(self, descriptor: Descriptor) -> TransferError:
        return TransferError(
            f"the blob {descriptor.digest} is missing in {self._name}",
            code="blob-not-found",
            hint="the layout is incomplete: make it again",
        )


def _names(entry: Descriptor) -> tuple[str, ...]:
    """What an entry may be called: its tag, the tag at its name's end, its whole name."""
    name, full = entry.annotation(REF_NAME), entry.annotation(IMAGE_NAME)
    tail = full.rpartition("/")[2].partition(":")[2]
    return tuple(text for text in (name, tail, full) if text)
