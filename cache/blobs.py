"""Blobs by digest, in the folder of an OCI layout."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cache.files import publish, store_errors
from cache.growing import GrowingBlob
from cache.uses import Uses
from machinefile.errors import StoreError, UntrustedDataError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 20


def digest_of(content: bytes) -> str:
    """`sha256:` and the hex digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


class BlobWriter:
    """A blob being written; see BlobStore.writer."""

    def __init__(self, file: BinaryIO, growing: GrowingBlob | None = None) -> None:
        self._file = file
        self._growing = growing
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes."""
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)
        if self._growing is not None:
            self._file.flush()
            self._growing.tell(self.size)
        return len(data)

    def restart(self) -> None:
        """Forget what was written: the sender begins again."""
        if self._growing is not None:
            raise ValueError("a blob that is read meanwhile cannot begin again")
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """Of what was written so far."""
        return "sha256:" + self._hash.hexdigest()


class BlobStore:
    """Files named by the sha256 of their content.

        blobs/sha256/<64 hex digits>    finished, never changed
        tmp/<process>/...               half written

    A blob is written under a temporary name, flushed to the disk, then renamed: one that has its name is whole.
    Needs no lock: two writers of one digest write the same bytes.
    """

    def __init__(self, root: Path, temporary: Path) -> None:
        self._folder = root / "blobs" / "sha256"
        self._temporary = temporary
        self.uses = Uses(root)
        """Notes what is used of the store."""

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be. Raises UntrustedDataError for what is not a sha256 digest."""
        if not _DIGEST.fullmatch(digest):
            raise UntrustedDataError(f"not a sha256 digest: {digest!r}", code="digest-invalid")
        return self._folder / digest.removeprefix("sha256:")

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is there, with that size (bytes) if one is given. If it is, it stays for as long as this
        process lives."""
        found = self.uses.find(self.path(digest))
        return found is not None and size in (None, found.st_size)

    @contextmanager
    def writer(self, expected: str = "", growing: GrowingBlob | None = None) -> Iterator[BlobWriter]:
        """Write a blob: it gets its name when the context is left without an exception. `growing` is told how far it
        is, and of its end as soon as the digest is known to be right.

        Raises UntrustedDataError (`digest-mismatch`) when `expected` is given and the bytes have another digest.
        """
        import tempfile

        with store_errors("writing a blob into the store"):
            descriptor, name = tempfile.mkstemp(dir=self._temporary, prefix="blob-")
            temporary = Path(name)
            try:
                with os.fdopen(descriptor, "w+b") as file:
                    writer = BlobWriter(file, growing)
                    if growing is not None:
                        growing.begin(file.fileno())
                    yield writer
                    if expected and writer.digest != expected:
                        raise UntrustedDataError(
                            f"the content has the digest {writer.digest}, not {expected}",
                            code="digest-mismatch",
                            hint="it was changed or cut on its way; try again, or ask who serves it",
                        )
                    if growing is not None:
                        growing.end(whole=True)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.chmod(0o644)
                publish(temporary, self.path(writer.digest))
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, content: bytes) -> str:
        """Store a small blob and give its digest."""
        digest = digest_of(content)
        if not self.has(digest, len(content)):
            with self.writer(digest) as writer:
                writer.write(content)
        return digest

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading. Raises StoreError (`blob-missing`)."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError as error:
            raise StoreError(
                f"the store has lost the blob {digest}",
                code="blob-missing",
                hint="build again: what is missing is made anew",
            ) from error

    def read(self, digest: str, limit: int = 16 << 20) -> bytes:
        """Read a small blob whole and check it. Raises StoreError (`blob-missing`, `blob-corrupt`)."""
        with self.open(digest) as file:
            content = file.read(limit + 1)
        if digest_of(content) != digest:
            self.drop(digest)
            raise StoreError(
                f"the blob {digest} in the store was damaged, and was removed",
                code="blob-corrupt",
                hint="build again: what is missing is made anew",
            )
        return content

    def verify(self, digest: str) -> bool:
        """Whether the blob's bytes have its digest; reads them all."""
        hasher = hashlib.sha256()
        with self.open(digest) as file:
            while chunk := file.read(_CHUNK):
                hasher.update(chunk)
        return "sha256:" + hasher.hexdigest() == digest

    def drop(self, digest: str) -> None:
        """Remove a blob, if it is there."""
        with store_errors(f"removing the blob {digest}"):
            self.path(digest).unlink(missing_ok=True)
