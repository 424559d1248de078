"""A file system of fsspec, with deadlines, second tries, and errors that say what to do."""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

from cache.carry.deadline import within
from cache.carry.durable import folder_errors, remove_leftovers, write_durably
from cache.carry.place import Sink
from cache.carry.stream import copy_checked
from cache.carry.urls import without_login
from machinefile.errors import HostError, InterruptedBuildError, MbuildError, TransferError, UsageError
from machinefile.values import dataclass

_T = TypeVar("_T")

PART = 8 << 20
"""Bytes that one request reads or writes at most, about; a blob of no more is written in one."""

_MOST_PARTS = 9000
"""S3 takes 10,000 parts of an object."""
_SECONDS = 30.0
"""For a question, with all second tries that the library makes of its own accord."""
_PART_SECONDS = 120.0
"""For a part that is read or written."""
_ATTEMPTS = 3
_PATIENCE = 5.0
"""Seconds after which nothing is tried again: the libraries have tried often enough then."""
_BACKOFF = 0.5
"""Seconds before the second try; twice as long before each one after."""
_CLEANING = 10.0
"""Seconds for giving up an upload."""
_LEFTOVERS = 24 * 3600.0
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "tos", "memory"})
"""They show an object that is written in one request when it is whole, and have no folders to be made."""
_COMMITTING = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
"""And so one that is written in parts: their libraries let an upload be given up."""
_FINAL = (
    TimeoutError,
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ValueError,
    TypeError,
)
"""No second try makes these better."""
_MISTAKES = (ValueError, TypeError, LookupError, AttributeError, NotImplementedError)
"""What a file system makes of a URL or options that it cannot use; all else is the server's, or the network's."""
_PACKAGES = {"sftp": "paramiko", "ssh": "paramiko", "smb": "smbprotocol"}
"""What fsspec's own file systems take; that of another is named as its class is."""
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a listing."""

    name: str
    size: int
    modified: float | None
    """Seconds since 1970; None where that is not told."""


class RemoteFiles:
    """The files below one URL. Threads may share it.

    Everything raises TransferError (`cache-failed`, `cache-denied`, `cache-timeout`), HostError (`cache-folder`) for
    a folder of this machine, and InterruptedBuildError once the build is stopped. Paths are relative to the URL.
    """

    def __init__(self, url: str, options: Mapping[str, str], cancelled: threading.Event) -> None:
        """Options are those of the file system in fsspec: `endpoint_url=http://...`, `anon=true`; a point leads into a
        group of them: `client_kwargs.region_name=...`. Touches nothing yet, but that the libraries for some servers
        (`ftp://`, `sftp://`) log in at once.

        Raises also UsageError (`usage`) for what is no URL, HostError (`package-missing`).
        """
        self._cancelled = cancelled
        self._closed = threading.Event()
        self.label = without_login(url)
        self._system, root = self._tried("reaching it", lambda: _opened(url, options, self.label), _SECONDS)
        self._root = root.rstrip("/")
        protocol = self._system.protocol
        self._protocols = {protocol} if isinstance(protocol, str) else set(protocol)

    def close(self) -> None:
        """Who still waits for an answer waits no longer: that raises InterruptedBuildError, as all from now on does."""
        self._closed.set()

    def list(self, folder: str) -> list[RemoteFile]:
        """The files in a folder; none where there is no such folder."""

        def listed() -> list[dict[str, Any]]:
            try:
                return list(self._system.ls(self._path(folder), detail=True))
            except FileNotFoundError:
                return []

        found = self._tried("listing what is there", listed, _SECONDS)
        return [_file(one) for one in found if one.get("type") == "file"]

    def find(self, path: str) -> RemoteFile | None:
        """What is known of a file; None where there is none."""

        def asked() -> dict[str, Any] | None:
            try:
                return dict(self._system.info(self._path(path)))
            except FileNotFoundError:
                return None

        found = self._tried(f"looking for {path}", asked, _SECONDS)
        return None if found is None or found.get("type") != "file" else _file(found)

    def read(self, path: str, start: int, end: int) -> bytes | None:
        """A part of a file, shorter where the file ends before; None where there is no such file."""

        def asked() -> bytes | None:
            try:
                return bytes(self._system.cat_file(self._path(path), start=start, end=end))
            except FileNotFoundError:
                return None

        return self._tried(f"reading {path}", asked, _PART_SECONDS)

    def write(self, path: str, data: bytes) -> None:
        """Write a small file: it is there whole, or not at all."""

        def fill(sink: Sink) -> None:
            sink(data)

        if self._protocols & _OBJECT_STORES:
            self._tried(f"writing {path}", lambda: self._system.pipe_file(self._path(path), data), _PART_SECONDS)
        else:
            self._moved_into_place(path, fill)

    def upload(self, path: str, digest: str, size: int, open_blob: Callable[[], BinaryIO]) -> None:
        """Write a blob: it is there whole, or not at all. Takes the memory of a part or two.

        Raises UntrustedDataError (`digest-mismatch`) where the blob is not what its digest says.
        """

        def fill(sink: Sink) -> None:
            with open_blob() as source:
                copy_checked(source, sink, digest, size, self._cancelled)

        if size <= PART and self._protocols & _OBJECT_STORES:
            parts: list[bytes] = []
            fill(parts.append)
            self.write(path, b"".join(parts))
        elif self._protocols & _COMMITTING:
            self._again(f"writing {path}", lambda: self._in_parts(path, size, fill))
        else:
            self._moved_into_place(path, fill)

    def remove(self, path: str) -> None:
        """Remove a file, unless it is gone."""

        def removed() -> None:
            with suppress(FileNotFoundError):
                self._system.rm_file(self._path(path))

        self._tried(f"removing {path}", removed, _SECONDS)

    def _in_parts(self, path: str, size: int, fill: Callable[[Sink], None]) -> None:
        part = max(PART, -(-size // _MOST_PARTS))
        # Left as it is, closing a file would publish what there is of it, even after a failure.
        file = self._once(lambda: self._system.open(self._path(path), "wb", block_size=part, autocommit=False))
        try:
            fill(lambda data: self._once(lambda: file.write(data)))
            self._once(file.close)
            self._once(file.commit)
        except BaseException:
            # Although the build may be stopped: what was sent costs its owner money until it is given up.
            with suppress(Exception):
                within(_CLEANING, threading.Event(), lambda: _give_up(file))
            raise
        finally:
            with suppress(ValueError):
                # A list of what a transaction would commit at its end, which only grows where there is none.
                self._system.transaction.files.remove(file)

    def _moved_into_place(self, path: str, fill: Callable[[Sink], None]) -> None:
        """For file systems that show a file while it is written."""
        from fsspec.implementations.local import LocalFileSystem

        final = self._path(path)
        if isinstance(self._system, LocalFileSystem):
            own = Path(self._path("tmp"))
            with folder_errors(self.label):
                own.mkdir(parents=True, exist_ok=True)
                Path(final).parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(own, _LEFTOVERS)
            write_durably(Path(final), own, self.label, fill)
            return
        temporary = self._path(f"tmp/{secrets.token_hex(8)}.tmp")

        def folders() -> None:
            for each in (temporary, final):
                self._system.makedirs(each.rpartition("/")[0], exist_ok=True)

        def written() -> None:
            self._once(folders)
            file = self._once(lambda: self._system.open(temporary, "wb"))
            try:
                fill(lambda data: self._once(lambda: file.write(data)))
            finally:
                self._once(file.close)
            self._once(lambda: self._system.mv(temporary, final))

        try:
            self._again(f"writing {path}", written)
        except BaseException:
            with suppress(Exception):
                within(_CLEANING, threading.Event(), lambda: self._system.rm_file(temporary))
            raise

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _once(self, call: Callable[[], _T]) -> _T:
        return within(_PART_SECONDS, self._cancelled, call, self._closed)

    def _tried(self, doing: str, call: Callable[[], _T], seconds: float) -> _T:
        return self._again(doing, lambda: within(seconds, self._cancelled, call, self._closed))

    def _again(self, doing: str, work: Callable[[], _T]) -> _T:
        """Do it, some times at most. fsspec's file systems raise whatever the libraries below them do."""
        wait, last = _BACKOFF, time.monotonic() + _PATIENCE
        for left in reversed(range(_ATTEMPTS)):
            try:
                return work()
            except MbuildError:
                raise
            except Exception as error:
                if not left or time.monotonic() >= last or _is_final(error):
                    raise self._told(doing, error) from error
            if self._cancelled.wait(wait):
                raise InterruptedBuildError
            wait *= 2
        raise AssertionError("the last try returns or raises")

    def _told(self, doing: str, error: Exception) -> TransferError:
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            return self._failure(doing, error, "cache-denied", "check the credentials, and what they allow")
        if isinstance(error, TimeoutError):
            return self._failure(doing, error, "cache-timeout", "check the network, and that the server works")
        if isinstance(error, FileNotFoundError):
            return self._failure(doing, error, "cache-failed", "make the bucket first, and check its name")
        return self._failure(doing, error, "cache-failed", "check the URL and the options")

    def _failure(self, doing: str, error: Exception, code: str, hint: str) -> TransferError:
        return TransferError(f"{self.label}: {doing} failed: {_said(error)}", code=code, hint=hint)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _is_final(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return isinstance(error, _FINAL) or "Credentials" in type(error).__name__


def _give_up(file: Any) -> None:
    with suppress(Exception):
        file.close()
    file.discard()


def _file(info: Mapping[str, Any]) -> RemoteFile:
    size = info.get("size")
    return RemoteFile(
        PurePosixPath(str(info.get("name", ""))).name, size if isinstance(size, int) else -1, _modified(info)
    )


def _modified(info: Mapping[str, Any]) -> float | None:
    """Each file system has a word of its own for it."""
    for name in ("LastModified", "mtime", "updated", "last_modified", "modified", "created"):
        match info.get(name):
            case datetime() as moment:
                return moment.timestamp()
            case int() | float() as seconds:
                return float(seconds)
            case str(text):
                with suppress(ValueError):
                    return datetime.fromisoformat(text).timestamp()
    return None


def _opened(url: str, options: Mapping[str, str], label: str) -> tuple[Any, str]:
    import fsspec
    from fsspec.registry import known_implementations

    protocol, separator, rest = url.partition("://")
    if not separator or not rest.strip("/") or "::" in url:
        raise UsageError(
            f"{label} is no URL of a place for a cache", code="usage", hint="for example s3://BUCKET/FOLDER"
        )
    # Neither an instance nor listings of before: others write there too.
    chosen = {**_nested(options), "skip_instance_cache": True, "use_listings_cache": False}
    try:
        system, root = fsspec.core.url_to_fs(url, **chosen)
    except ImportError as error:
        package = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
        package = _PACKAGES.get(protocol, package)
        if package in ("", "fsspec"):  # It has a file system that needs something else: fsspec has words for what.
            raise HostError(
                f"caches at {protocol}:// need a Python package that is missing: {_said(error)}",
                code="package-missing",
                hint="install it where mbuild is",
            ) from error
        raise HostError(
            f"caches at {protocol}:// need the Python package {package}",
            code="package-missing",
            hint=f"pip install {package}",
        ) from error
    except OSError:
        raise
    except _MISTAKES as error:
        # What a file system makes of options that it does not know is its own affair.
        raise UsageError(
            f"{label} cannot be used as a cache: {_said(error)}", code="usage", hint="check the URL and the options"
        ) from error
    return system, str(root)


def _nested(options: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, text in options.items():
        *groups, last = name.split(".")
        place = made
        for group in groups:
            inner = place.setdefault(group, {})
            if not isinstance(inner, dict):
                raise UsageError(f"the option {name} of the cache is both a value and a group", code="usage")
            place = inner
        place[last] = _WORDS.get(text, text)
    return made
