"""Looking through a whole store: blobs and entries, what was made of them, images, machines, cache mounts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from cache.check import CacheCheck, listed, remove, stray
from cache.files import file_digest, store_errors
from cache.finding import Finding, Harm, Seen
from cache.names import NamedImage
from cache.results import Layer
from cache.store import Store
from engine.events import Observer, TransferProgress
from engine.images.manifest import Manifest, parse_manifest
from engine.layers.compression import CHUNK, decompress
from engine.layers.index import LayerIndex, is_of_another_version
from engine.layers.limits import LayerLimits
from engine.machines.library import Library, check, read_machine
from engine.machines.transfer import is_machine
from machinefile.errors import MbuildError, StoreError

_LAYER_NAME = re.compile(r"sha256-[0-9a-f]{64}")
_DISK_NAME = re.compile(r"[0-9a-f]{64}\.squashfs")
_HEX = re.compile(r"[0-9a-f]{64}")
_CHECKED = "checked"
"""What stands beside the machines."""
_SQUASHFS = b"hsqs"
_EXT4 = b"\x53\xef"
_DEPTH = 8


class StoreCheck:
    """One look through a store. Its findings are to be mended as they come: later ones follow from earlier ones."""

    def __init__(self, store: Store, observer: Observer, cancelled: threading.Event, *, fast: bool = False) -> None:
        """See CacheCheck."""
        self._store = store
        self._observer = observer
        self._check = CacheCheck(store, cancelled, self._tell, fast=fast)
        self._limits = LayerLimits.from_environment()

    @property
    def seen(self) -> Seen:
        """What was looked at so far."""
        return self._check.seen

    def run(self) -> Iterator[Finding]:
        """Everything that is wrong. Raises StoreError when the store cannot be read, InterruptedBuildError."""
        with store_errors("looking through the store"):
            yield from self._check.blobs()
            yield from self._check.entries(self._diff_id)
            yield from self._each("layers", lambda path: _is_file(path, _LAYER_NAME), self._layer)
            yield from self._each("disks", lambda path: _is_file(path, _DISK_NAME), self._disk)
            yield from self._images()
            yield from self._each("machines", lambda path: path.name.isalnum() and path.is_dir(), self._machine)
            yield from self._each("mounts", lambda path: bool(_HEX.fullmatch(path.name)) and path.is_dir(), self._mount)
            yield from self._temporary()
            yield from self._check.beside()

    def _tell(self, done: int, total: int) -> None:
        self._observer(TransferProgress("check", "check blobs", done, total, finished=done == total))

    def _diff_id(self, layer: Layer) -> str:
        summed = hashlib.sha256()
        try:
            with self._store.blobs.open(layer.digest) as blob:
                plain = decompress(blob, self._limits)
                while chunk := plain.read(CHUNK):
                    self._check.pause()
                    summed.update(chunk)
        except StoreError:
            return layer.diff_id  # it is gone by now: there is nothing to say against it
        except MbuildError as error:
            if error.exit_code == 130:
                raise
            return ""
        return f"sha256:{summed.hexdigest()}"

    def _each(
        self, folder: str, belongs: Callable[[Path], bool], look: Callable[[Path], Iterator[Finding]]
    ) -> Iterator[Finding]:
        """What is wrong in a folder of the store, with each thing that belongs there and with what does not."""
        for name, _ in listed(self._store.root / folder):
            self._check.pause()
            path = self._store.root / folder / name
            if belongs(path):
                yield from look(path)
            else:
                yield stray(self._store, path)

    def _layer(self, path: Path) -> Iterator[Finding]:
        self.seen.layers += 1
        try:
            data = path.read_bytes()
            if is_of_another_version(data) or LayerIndex.from_bytes(data).diff_id == path.name.replace("-", ":"):
                return
            why = "it is another layer's"
        except FileNotFoundError:
            return
        except (OSError, StoreError):
            why = "it cannot be read"
        yield Finding(Harm.LAYER, f"layers/{path.name}", why, partial(remove, path))

    def _disk(self, path: Path) -> Iterator[Finding]:
        self.seen.disks += 1
        if not self._is_right(path):
            yield Finding(Harm.DISK, f"disks/{path.name}", "it is not what was made", partial(self._drop, path))

    def _is_right(self, disk: Path) -> bool:
        if self._check.holds(disk):
            return True
        try:
            known = self._store.seals.digest(disk)
            if known:
                # Another process may be putting one in its place: its name comes first, then its seal.
                return file_digest(disk) == known or self._store.seals.digest(disk) != known
            with disk.open("rb") as file:
                head = file.read(48)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return True
        except OSError:
            return False
        # One that was never sealed is made anew before it is used; here it only has to be a squashfs.
        return head.startswith(_SQUASHFS) and int.from_bytes(head[40:48], "little") <= size

    def _drop(self, path: Path) -> None:
        remove(path)
        self._store.seals.drop(path)

    def _images(self) -> Iterator[Finding]:
        if not self._store.names.is_sound():
            message = "not all of it can be read"
            yield Finding(Harm.NAMES, "index.json", message, self._store.names.mend)
        for image in self._store.names.all():
            self._check.pause()
            self.seen.images += 1
            lacks = self._lacks(image.digest, image.size, _DEPTH)
            # It may have been renamed, or built anew, meanwhile.
            if lacks and self._store.names.get(image.name) == image and self._lacks(image.digest, image.size, _DEPTH):
                yield Finding(Harm.IMAGE, image.name, lacks, partial(self._forget, image))

    def _forget(self, image: NamedImage) -> None:
        if self._store.names.get(image.name) == image:
            self._store.names.drop(image.name)

    def _lacks(self, digest: str, size: int, depth: int) -> str:
        """What an image or index has not got, in words."""
        try:
            if not self._check.has(digest, size):
                return f"its manifest {digest} is gone or damaged"
            document = parse_manifest(self._store.blobs.read(digest), f"the manifest {digest}")
            if isinstance(document, Manifest):
                if is_machine(document):
                    held = self._check.has(document.config.digest, document.config.size)
                    return "" if held and Library(self._store).has(digest) else "its machine is gone or damaged"
                for blob in (document.config, *document.layers):
                    if not self._check.has(blob.digest, blob.size):
                        return f"the blob {blob.digest} is gone or damaged"
                return ""
            if not depth:
                return "it has indexes within indexes without end"
            return next(
                (why for one in document.manifests if (why := self._lacks(one.digest, one.size, depth - 1))), ""
            )
        except MbuildError as error:
            return error.message

    def _machine(self, path: Path) -> Iterator[Finding]:
        if path.name == _CHECKED:
            return
        self.seen.machines += 1
        if self._machine_fails(path):
            # One that is being replaced is damaged for a moment.
            with self._store.lock(f"machine {path.name}"):
                why = self._machine_fails(path)
            if why:
                yield Finding(Harm.MACHINE, f"machines/{path.name}", why, partial(self._drop_machine, path.name))

    def _machine_fails(self, path: Path) -> str:
        if not path.is_dir():
            return ""
        try:
            machine = read_machine(path)
            if not self._check.fast:
                check(machine)
        except MbuildError as error:
            return error.message
        return ""

    def _drop_machine(self, key: str) -> None:
        with self._store.lock(f"machine {key}"):
            Library(self._store).discard(key)

    def _mount(self, path: Path) -> Iterator[Finding]:
        about = path / "about.json"
        if not _is_json(about):
            yield Finding(Harm.ENTRY, f"mounts/{path.name}/about.json", "it cannot be read", partial(remove, about))
        for disk in sorted(path.glob("*/disk")):
            self.seen.mounts += 1
            if not _is_ext4(disk):
                name = str(disk.relative_to(self._store.root))
                yield Finding(Harm.DISK, name, "it is no ext4", partial(remove, disk))

    def _temporary(self) -> Iterator[Finding]:
        """Folders of processes that died go when a store is opened; nobody makes files beside them."""
        folder = self._store.root / "tmp"
        for name, _ in listed(folder):
            if name != ".sweep" and not (folder / name).is_dir() and os.path.lexists(folder / name):
                yield stray(self._store, folder / name)


def _is_file(path: Path, name: re.Pattern[str]) -> bool:
    return bool(name.fullmatch(path.name)) and path.is_file()


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except FileNotFoundError:
        return True  # it is about to come
    except (OSError, ValueError, RecursionError):
        return False


def _is_ext4(path: Path) -> bool:
    """Source: the kernel's documentation of ext4: s_magic, 0x38 bytes into the superblock, which begins at 1024."""
    try:
        with path.open("rb") as file:
            file.seek(1024 + 0x38)
            return file.read(2) == _EXT4
    except FileNotFoundError:
        return True
    except OSError:
        return False
