"""An OCI layout that is written. Source: OCI image spec, image-layout.md."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from engine.images.descriptor import Descriptor
from engine.images.digest import digest_of
from engine.images.download import mismatch
from engine.images.files import FolderFiles
from engine.images.jsonvalue import dump
from engine.images.layout import IMAGE_NAME, INDEX_FILE, LAYOUT_FILE, REF_NAME, VERSION, OciLayout, blob_name
from engine.images.manifest import Index, Manifest
from machinefile.errors import HostError, UsageError
from machinefile.platform import Platform

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


class LayoutWriter:
    """Writes images into a layout folder, new or there already.

        DEST/oci-layout            last but one
        DEST/blobs/sha256/HEX      each under a temporary name until it is whole
        DEST/index.json            last, in one step: until then a reader sees the folder as it was

    Images that an existing layout holds under other tags stay. Not for two writers at once: the later index wins.
    Blobs are not flushed to the drive, which would take longer than all else: one from before the machine's start is
    read before it counts as there (a power failure may have left it its name and length alone). An index that takes the
    place of another is flushed, so that one of the two is there.
    Raises HostError (`output-failed`) when the folder cannot be written.
    """

    def __init__(self, dest: Path) -> None:
        """Raises UsageError (`output-not-a-layout`) for a folder that holds something else."""
        self._dest = dest
        self._entries: list[Descriptor] = []
        with _writing(dest):
            if dest.is_dir() and not (dest / LAYOUT_FILE).exists() and not _is_unfinished(dest):
                raise _occupied(dest)
            if dest.exists() and not dest.is_dir():
                raise _occupied(dest)
            (dest / blob_name("")).mkdir(parents=True, exist_ok=True)
            for name in os.listdir(dest):
                if _TEMPORARY.fullmatch(name):  # of a writer that was killed
                    (dest / name).unlink(missing_ok=True)

    def add_blob(self, chunks: Iterable[bytes], media_type: str, digest: str = "") -> Descriptor:
        """Write a blob. With `digest` it is checked: UntrustedDataError (`digest-mismatch`), and nothing is kept."""
        summed, size = hashlib.sha256(), 0
        with _writing(self._dest), self._temporary() as (file, path):
            for chunk in chunks:
                summed.update(chunk)
                size += len(chunk)
                _write(file, chunk)
            actual = f"sha256:{summed.hexdigest()}"
            if digest and actual != digest:
                raise mismatch("the blob", digest, actual)
            os.replace(path, self._dest / blob_name(actual))
        return Descriptor(media_type, actual, size)

    def add_checked(self, chunks: Iterable[bytes], descriptor: Descriptor) -> None:
        """Write a blob from what raises an exception before its end unless it is all of that very blob."""
        with _writing(self._dest), self._temporary() as (file, path):
            for chunk in chunks:
                _write(file, chunk)
            os.replace(path, self._dest / blob_name(descriptor.digest))

    def add_bytes(self, data: bytes, media_type: str) -> Descriptor:
        """Write a small blob."""
        return self.add_blob([data], media_type, digest_of(data))

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether a blob of that digest and size is there already, whole."""
        path = self._dest / blob_name(descriptor.digest)
        if FolderFiles(self._dest).size(blob_name(descriptor.digest)) != descriptor.size:
            return False
        if path.stat().st_ctime > time.time() - time.clock_gettime(time.CLOCK_BOOTTIME):
            return True
        with _writing(self._dest), path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == descriptor.digest

    def add_manifest(
        self, manifest: Manifest | Index, *, tag: str = "", name: str = "", platform: Platform | None = None
    ) -> Descriptor:
        """Write a manifest, or an index, and list it under a tag, and a whole name, once `commit` is called."""
        return self.add_manifest_bytes(manifest.to_json(), manifest.media_type, tag=tag, name=name, platform=platform)

    def add_manifest_bytes(
        self, data: bytes, media_type: str, *, tag: str = "", name: str = "", platform: Platform | None = None
    ) -> Descriptor:
        """The same with the bytes as they came from elsewhere."""
        written = self.add_bytes(data, media_type)
        annotations = tuple((key, value) for key, value in ((IMAGE_NAME, name), (REF_NAME, tag)) if value)
        self._entries.append(replace(written, platform=platform, annotations=annotations))
        return written

    def commit(self) -> None:
        """Make what was added visible."""
        index = Index((*self._kept(), *self._entries))
        self._replace(LAYOUT_FILE, dump({"imageLayoutVersion": VERSION}))
        self._replace(INDEX_FILE, index.to_json())

    def _kept(self) -> Iterator[Descriptor]:
        """What was listed before and is not replaced: by its tag, or, without one, by its digest."""
        if not (self._dest / INDEX_FILE).exists():
            return
        tags = {entry.annotation(REF_NAME) for entry in self._entries} - {""}
        digests = {entry.digest for entry in self._entries}
        for entry in OciLayout(FolderFiles(self._dest), str(self._dest)).index().manifests:
            tag = entry.annotation(REF_NAME)
            if tag not in tags and (tag or entry.digest not in digests):
                yield entry

    def _replace(self, name: str, data: bytes) -> None:
        with _writing(self._dest), self._temporary() as (file, path):
            _write(file, data)
            if (self._dest / name).exists():
                os.fsync(file.fileno())
            os.replace(path, self._dest / name)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[BinaryIO, Path]]:
        """A new file with the rights that the umask gives; gone again unless it was renamed."""
        path = self._dest / f".{secrets.token_hex(8)}.tmp"
        try:
            with open(path, "xb", buffering=0) as raw:
                yield raw, path
        finally:
            with suppress(FileNotFoundError):
                path.unlink()


def _write(file: BinaryIO, data: bytes) -> None:
    """All of it: where the space ends, the system takes a part first."""
    with memoryview(data) as rest:
        written = 0
        while written < len(rest):
            written += file.write(rest[written:])


@contextmanager
def _writing(dest: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{dest} cannot be written: {error.strerror or error}",
            code="output-failed",
            hint="check the path, its rights and the space left",
        ) from error


def _is_unfinished(dest: Path) -> bool:
    """Whether a folder holds nothing but what a writer that was killed leaves."""
    return all(name == "blobs" or _TEMPORARY.fullmatch(name) for name in os.listdir(dest))


def _occupied(dest: Path) -> UsageError:
    return UsageError(
        f"{dest} is there already and is not an OCI layout",
        code="output-not-a-layout",
        hint="name a new folder, or empty this one",
    )
