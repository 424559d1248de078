"""The machines that the store keeps, and those in folders elsewhere.

STORE/machines/KEY/         machine.json and its parts; finished, never changed
               KEY.new/     being made; left behind only by a death, and then made anew
               checked/     which folders elsewhere have been read through, and what they were then
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.files import sync_directory, sync_tree, write_atomically
from cache.index import Kind
from cache.store import Store
from engine.machines.manifest import MAX_BYTES, MachineManifest, parse_machine
from engine.machines.sparse import digest_of_runs
from engine.vm.disks import clone
from engine.vm.frozen import ENTRIES, Frozen, disk_errors
from machinefile.errors import UntrustedDataError, UsageError
from machinefile.values import dataclass

MANIFEST = "machine.json"


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine in a folder."""

    folder: Path
    manifest: MachineManifest

    @property
    def frozen(self) -> Frozen:
        """As the hypervisor takes it."""
        return self.manifest.frozen(self.folder)


def read_machine(folder: Path) -> Machine:
    """The machine in a folder, its path made absolute: QEMU runs in a folder of its own. The parts are not looked
    into, but must be there.

    Raises UsageError (`machine-unknown`, `bad-environment`), UntrustedDataError (`machine-invalid`, `machine-version`,
    `machine-corrupt`, `layer-too-large`).
    """
    folder = folder.absolute()
    try:
        with (folder / MANIFEST).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{folder} holds no machine: {MANIFEST} cannot be read ({error.strerror})",
            code="machine-unknown",
            hint="write one with mbuild -o type=machine,dest=DIR",
        ) from error
    machine = Machine(folder, parse_machine(data, str(folder / MANIFEST)))
    for part in machine.manifest.parts:
        path = folder / part.name
        try:
            status = path.lstat()
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode) or status.st_size != part.size:
            raise _damaged(path, "is no file or has another length")
    return machine


class Library:
    """The machines of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.root / "machines"

    def path(self, key: str) -> Path:
        """Where the machine of that key is, or would be."""
        return self._folder / key

    def get(self, key: str) -> Machine | None:
        """The machine of that key; one that is damaged counts as missing."""
        self._store.uses.find(self.path(key))
        return self._read(key)

    def of(self, digest: str) -> Machine | None:
        """The machine last made of the image with that manifest, or pulled as the artifact with that one."""
        key = self._key(digest)
        return self.get(key) if key else None

    def has(self, digest: str) -> bool:
        """Whether `of` would give one: to look is not to use it."""
        key = self._key(digest)
        return bool(key) and self._read(key) is not None

    def _key(self, digest: str) -> str:
        key = self._store.index.get(Kind.MACHINE, digest)
        return key if isinstance(key, str) and key.isalnum() else ""

    def _read(self, key: str) -> Machine | None:
        try:
            return read_machine(self.path(key))
        except (UsageError, UntrustedDataError):
            return None

    def remember(self, digest: str, key: str) -> None:
        """`of` gives the machine of that key from now on."""
        self._store.index.put(Kind.MACHINE, digest, key)

    def share(self, digest: str, other: str) -> None:
        """What there is for the image with one digest, if there is a machine, is there for another one too."""
        key = self._store.index.get(Kind.MACHINE, digest)
        if isinstance(key, str):
            self.remember(other, key)

    def drop(self, digest: str) -> None:
        """Remove the machine of an image or artifact, unless it is another one's too."""
        key = self._key(digest)
        self._store.index.drop(Kind.MACHINE, digest)
        if key and key not in {self._key(other) for other in self._store.index.keys(Kind.MACHINE)}:
            self.discard(key)

    def discard(self, key: str) -> None:
        """Remove the machine of that key, if there is one: all of it at once, for who reads it meanwhile."""
        doomed = self._store.folder()
        with disk_errors(self._folder), suppress(FileNotFoundError):
            self.path(key).rename(doomed / "machine")
        shutil.rmtree(doomed, ignore_errors=True)

    @contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """An empty folder that becomes the machine of that key when the context is left without an exception.

        To be entered under the lock of the key.
        """
        new = self._store.folder()
        try:
            yield new
            with disk_errors(self._folder):
                self._folder.mkdir(exist_ok=True)
                sync_tree(new)
                self.discard(key)
                new.rename(self.path(key))
                sync_directory(self._folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def open(self, folder: Path) -> Machine:
        """A machine in a folder elsewhere. Its parts are read and compared with their digests the first time, and
        again when one has changed since.

        Raises as `read_machine`, UntrustedDataError (`machine-corrupt`), and HostError (`machine-unwritable`) when
        the store cannot remember it.
        """
        machine = read_machine(folder)
        seen = json.dumps([[part.digest, *_stamp(machine.folder / part.name)] for part in machine.manifest.parts])
        note = self._folder / "checked" / hashlib.sha256(os.fsencode(machine.folder.resolve())).hexdigest()
        if not _says(note, seen):
            check(machine)
            with disk_errors(note.parent):
                note.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(note, seen.encode(), self._store.temporary)
        return machine


def check(machine: Machine) -> None:
    """Compare every part with its digest. Raises UntrustedDataError (`machine-corrupt`)."""
    for part in machine.manifest.parts:
        path = machine.folder / part.name
        try:
            digest = digest_of_runs(path)
        except OSError as error:
            raise _damaged(path, f"cannot be read ({error.strerror})") from error
        if digest != part.digest:
            raise _damaged(path, "is not what its digest says")


def _says(note: Path, text: str) -> bool:
    try:
        return note.read_text() == text
    except (OSError, UnicodeDecodeError):
        return False


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns, status.st_ino


def _damaged(path: Path, why: str) -> UntrustedDataError:
    return UntrustedDataError(
        f"{path} {why}", code="machine-corrupt", hint="the machine is damaged: make it or copy it again"
    )


def check_destination(destination: Path) -> None:
    """Refuse to write a machine over anything but a whole machine with nothing beside it, or an empty folder: what
    is there is removed.

    Raises UsageError (`output-in-the-way`).
    """
    try:
        entries = set(os.listdir(destination))
    except FileNotFoundError:
        if not destination.is_symlink():
            return
        raise _in_the_way(destination, "is a link that leads nowhere") from None
    except OSError as error:
        raise _in_the_way(destination, f"is there and holds no machine ({error.strerror})") from error
    if not entries:
        return
    if MANIFEST not in entries:
        raise _in_the_way(destination, "is there and holds no machine")
    others = sorted(entries - {MANIFEST, *ENTRIES})
    if others:
        raise _in_the_way(destination, f"holds {others[0][:80]!r}, which is no part of a machine")
    try:
        read_machine(destination)
    except (UsageError, UntrustedDataError) as error:
        raise _in_the_way(destination, f"is there and holds no machine that is whole: {error.message}") from error


def _in_the_way(destination: Path, why: str) -> UsageError:
    return UsageError(f"{destination} {why}", code="output-in-the-way", hint="name another dest, or remove it")


def write_out(machine: Machine, destination: Path) -> None:
    """Copy a machine to a folder, whole or not at all; an older machine there is replaced.

    Raises UsageError (`output-in-the-way`), HostError (`machine-unwritable`).
    """
    check_destination(destination)
    final = destination.resolve()
    new = final.with_name(f".{final.name[:200]}.{secrets.token_hex(6)}.tmp")
    old = final.with_name(f"{new.name}.old")
    try:
        with disk_errors(destination):
            new.mkdir(parents=True)
            for part in machine.manifest.parts:
                clone(machine.folder / part.name, new / part.name)
            (new / MANIFEST).write_bytes(machine.manifest.to_json())
            _exchange(new, final, old)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _exchange(new: Path, final: Path, old: Path) -> None:
    """Put a folder in another's place; that one goes only when the new one is there. Raises OSError."""
    there = final.exists()
    if there:
        final.rename(old)
    try:
        new.rename(final)
    except OSError:
        if there:
            old.rename(final)
        raise
    shutil.rmtree(old, ignore_errors=True)
