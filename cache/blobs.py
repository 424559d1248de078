"""Blobs by digest, in the folder of an OCI layout."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cache.files import publish, store_errors
from cache.growing import GrowingBlob
from cache.seals import Seals, stamp_of
from cache.uses import Uses
from cache.writeback import Writeback
from machinefile.errors import StoreError, UntrustedDataError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 20
SMALL = 16 << 20
"""Bytes: no manifest or configuration that is taken is larger."""
_AGAIN = "build again: what is missing is made anew"


def digest_of(content: bytes) -> str:
    """`sha256:` and the hex digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


class BlobWriter:
    """A blob being written; see BlobStore.writer."""

    def __init__(self, file: BinaryIO, growing: GrowingBlob | None = None) -> None:
        self._file = file
        self._growing = growing
        self._hash = hashlib.sha256()
        self._writeback = Writeback(file.fileno())
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append bytes."""
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)
        self._writeback.wrote(len(data))
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
    Needs no lock: two writers of one digest write the same bytes. What came afterwards (a disk that decays, a hand
    that slips) is found by `is_sound` and `open`, which know by its seal whether a blob was touched.
    """

    def __init__(self, root: Path, temporary: Path, seals: Seals) -> None:
        self._folder = root / "blobs" / "sha256"
        self._temporary = temporary
        self._seals = seals
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

    def is_sound(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is there and is what its digest says; one that is not is removed. Reads it only if it was
        touched since that was last known."""
        if not self.has(digest, size):
            return False
        if self._seals.holds(self.path(digest)):
            return True
        try:
            self.open(digest).close()
        except StoreError as error:
            if error.code not in ("blob-corrupt", "blob-missing"):
                raise
            return False
        return True

    def is_empty(self) -> bool:
        """Whether there is none at all."""
        with os.scandir(self._folder) as entries:
            return next(entries, None) is None

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
                self._seals.put(self.path(writer.digest))
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, content: bytes) -> str:
        """Store a small blob and give its digest."""
        digest = digest_of(content)
        if not self.is_sound(digest, len(content)):
            with self.writer(digest) as writer:
                writer.write(content)
        return digest

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading. One that was touched since it was last known to be right is read through first.

        Raises StoreError (`blob-missing`, `blob-corrupt`).
        """
        file = self._open(digest)
        if self._seals.holds(self.path(digest)):
            return file
        try:
            if self._check(digest, file):
                file.seek(0)
                return file
            self._drop_damaged(digest, file)
            raise _corrupt(digest)
        except BaseException:
            file.close()
            raise

    def read(self, digest: str, limit: int = SMALL) -> bytes:
        """Read a small blob whole and check it. One of more than `limit` bytes is not looked into: who names it may
        not know, or not care, what it is. Raises StoreError (`blob-missing`, `blob-corrupt`, `blob-too-large`)."""
        with self._open(digest) as file:
            content = file.read(limit + 1)
            if len(content) > limit:
                raise StoreError(
                    f"the blob {digest} in the store has more than {limit} bytes: too large for what it is read for",
                    code="blob-too-large",
                    hint="if it should be a manifest or a configuration, run: mbuild cache check --repair",
                )
            if digest_of(content) != digest:
                self._drop_damaged(digest, file)
                raise _corrupt(digest)
        return content

    def verify(self, digest: str) -> bool:
        """Whether the blob's bytes have its digest; reads them all. Raises StoreError (`blob-missing`)."""
        with self._open(digest) as file:
            return self._check(digest, file)

    def drop(self, digest: str) -> None:
        """Remove a blob, if it is there."""
        with store_errors(f"removing the blob {digest}"):
            self.path(digest).unlink(missing_ok=True)
        self._seals.drop(self.path(digest))

    def _open(self, digest: str) -> BinaryIO:
        with store_errors(f"reading the blob {digest}"):
            try:
                return self.path(digest).open("rb")
            except FileNotFoundError as error:
                message = f"the store has lost the blob {digest}"
                raise StoreError(message, code="blob-missing", hint=_AGAIN) from error

    def _check(self, digest: str, file: BinaryIO) -> bool:
        """Read an open blob from its beginning, and seal it if it is right."""
        before = stamp_of(file.fileno())
        hasher = hashlib.sha256()
        with store_errors(f"reading the blob {digest}"):
            try:
                while chunk := file.read(_CHUNK):
                    hasher.update(chunk)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                hasher.update(b"the disk cannot read the rest")
        if "sha256:" + hasher.hexdigest() != digest:
            return False
        if before is not None and before == stamp_of(self.path(digest)):
            self._seals.put(self.path(digest))
        return True

    def _drop_damaged(self, digest: str, file: BinaryIO) -> None:
        """Remove a blob unless another was put in its place since it was opened."""
        found = os.fstat(file.fileno())
        with suppress(FileNotFoundError):
            if os.path.samestat(found, self.path(digest).stat()):
                self.drop(digest)


def _corrupt(digest: str) -> StoreError:
    return StoreError(f"the blob {digest} in the store was damaged, and was removed", code="blob-corrupt", hint=_AGAIN)
