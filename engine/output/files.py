"""Files that an output writes: whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from engine.output.kinds import OutputSpec, OutputType
from machinefile.errors import HostError, InterruptedBuildError, UsageError
from machinefile.platform import Platform

_STDOUT = 1


class OutputSink:
    """Where an output's bytes go; stops when the build is stopped."""

    def __init__(self, file: BinaryIO, cancelled: threading.Event) -> None:
        self._file = file
        self._cancelled = cancelled

    def write(self, data: bytes, /) -> int:
        """Takes all of `data`. Raises InterruptedBuildError."""
        if self._cancelled.is_set():
            raise InterruptedBuildError
        self._file.write(data)
        return len(data)


@contextmanager
def output_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into HostError (`output-failed`, `output-full`)."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HostError(
            f"{what} cannot be written: {error.strerror or error}",
            code="output-full" if full else "output-failed",
            hint="free some space there, or choose another place" if full else "check the path and its rights",
        ) from error


@contextmanager
def writing(output: OutputSpec, cancelled: threading.Event) -> Iterator[OutputSink]:
    """Write an output that is one stream: a file, which gets its name when it is whole, or standard output.

    A pipe or a device at the destination is written to as it is. Raises HostError (`output-failed`, `output-full`).
    """
    with output_errors(output.label):
        if output.to_stdout:
            with os.fdopen(os.dup(_STDOUT), "wb") as file:
                yield OutputSink(file, cancelled)
        elif _is_stream(output.destination):
            with open(output.destination, "wb") as file:
                yield OutputSink(file, cancelled)
        else:
            with replacing(output.destination) as temporary, open(temporary, "xb") as file:
                yield OutputSink(file, cancelled)


@contextmanager
def replacing(destination: Path) -> Iterator[Path]:
    """A new name beside the destination, for a file that takes its place when the context is left without error.

    A symbolic link at the destination stays, and what it points at is replaced.
    """
    final = destination.resolve() if destination.is_symlink() else destination
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        os.replace(temporary, final)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def check_destinations(outputs: tuple[OutputSpec, ...]) -> None:
    """Refuse what can be seen to fail, before anything is built. Raises UsageError (`output-in-the-way`)."""
    for output in outputs:
        if output.to_stdout or output.destination == Path("-"):
            continue
        mode = _mode(output.destination)
        if mode is None:
            continue
        if output.is_folder and not stat.S_ISDIR(mode):
            raise UsageError(
                f"{output.label} is a file, and type={output.type.value} writes a folder",
                code="output-in-the-way",
                hint="name another dest, or remove the file",
            )
        if not output.is_folder and stat.S_ISDIR(mode):
            raise UsageError(
                f"{output.label} is a folder, and type={output.type.value} writes a file",
                code="output-in-the-way",
                hint=f"name a file in it: dest={output.destination}/image.tar",
            )


def check_platforms(outputs: Sequence[OutputSpec], platforms: Sequence[Platform]) -> None:
    """Refuse what an output cannot hold of a build for these platforms.

    Raises UsageError: `output-one-platform`, `annotation-unsupported`.
    """
    for output in outputs:
        if len(platforms) > 1 and not output.type.holds_several:
            why = "docker load takes no index of images" if output.type is OutputType.DOCKER else "it has one root"
            raise UsageError(
                f"-o type={output.type.value} cannot hold images for {len(platforms)} platforms: {why}",
                code="output-one-platform",
                hint="build one platform at a time, or write type=oci, or push the images",
            )
        output.annotations.check(platforms)


def check_attested(outputs: Sequence[OutputSpec]) -> None:
    """Refuse what cannot hold attestations. Raises UsageError (`attest-output`)."""
    for output in outputs:
        if output.type not in (OutputType.OCI, OutputType.IMAGE):
            raise UsageError(
                f"-o type={output.type.value} cannot hold attestations",
                code="attest-output",
                hint="write type=oci, or push the image; or leave out --attest",
            )
        if not output.oci_media_types:
            raise UsageError(
                "attestations need OCI's media types, and the output has oci-mediatypes=false",
                code="attest-output",
                hint="leave out one of them",
            )


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _is_stream(path: Path) -> bool:
    mode = _mode(path)
    return mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)
