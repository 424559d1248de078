"""Lock files on disk: finding, reading and writing them."""

from __future__ import annotations

import argparse
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from machinefile.errors import HostError, UsageError

if TYPE_CHECKING:
    from engine.pins import Lock
    from machinefile.lockfile import Lockfile

SUFFIX = ".lock"


def lock_path(options: argparse.Namespace, machinefile: Path | None) -> Path | None:
    """Where the lock file is, there or not; None for a Machinefile from standard input without --lock-file."""
    if options.lock_file:
        return Path(options.lock_file)
    return machinefile.with_name(machinefile.name + SUFFIX) if machinefile is not None else None


def read_lock(options: argparse.Namespace, machinefile: Path | None) -> Lock | None:
    """The lock file that counts, if there is one. One that --lock-file names must be there, but for `mbuild lock`.

    Raises UsageError: `usage`, `lock-missing`, `lock-unreadable`, and what parse_lockfile raises.
    """
    if options.no_lock:
        if options.locked or options.lock_file:
            other = "--locked" if options.locked else "--lock-file"
            raise UsageError(f"--no-lock and {other} cannot be used together", code="usage", hint="leave one out")
        return None
    path = lock_path(options, machinefile)
    lock = _read(path) if path is not None else None
    if lock is not None:
        return lock
    if options.locked or (options.lock_file and not getattr(options, "makes_lock", False)):
        missing = f"there is no {path}" if path is not None else "a Machinefile from standard input has no lock file"
        hint = "make it with mbuild lock" if path is not None else "name one with --lock-file FILE"
        raise UsageError(missing, code="lock-missing", hint=hint)
    return None


def write_lock(path: Path, lock: Lockfile) -> None:
    """Put a lock file in place, whole or not at all; a link to it stays one. Raises HostError `output-failed`."""
    import tempfile  # which builds have no use for

    target = Path(os.path.realpath(path))
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(lock.render())
            os.fchmod(file.fileno(), _mode(target))
        os.replace(temporary, target)
    except OSError as error:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        raise HostError(f"{path} cannot be written: {error.strerror}", code="output-failed") from error


def _mode(path: Path) -> int:
    """What the file had, or what a new one gets."""
    with suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _read(path: Path) -> Lock | None:
    """None where there is no file."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            from engine.pins import Lock  # which a build without a lock file has no use for
            from machinefile.lockread import MAX_BYTES, parse_lockfile

            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe would be waited for
                raise UsageError(f"{path} is not a file", code="lock-unreadable", hint="remove it, or use --no-lock")
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", code="lock-unreadable") from error
    return Lock(str(path), parse_lockfile(data, str(path)))
