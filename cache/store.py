"""The store: one folder with everything mbuild keeps."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from cache.blobs import BlobStore
from cache.chains import Chains
from cache.files import store_errors, write_atomically
from cache.index import Index, Kind
from cache.keys import Record
from cache.locks import locked
from cache.names import Names
from cache.records import pack
from cache.results import KnownSteps, StepResult
from cache.seals import Seals
from cache.settling import Settling
from cache.spans import span
from cache.uses import Uses
from cache.versions import settle
from cache.workspace import Workspace

FOLDERS = frozenset(
    (
        "version",
        "oci-layout",
        "index.json",
        "blobs",
        "index",
        "layers",
        "disks",
        "vm",
        "machines",
        "locks",
        "used",
        "mounts",
        "contexts",
        "tmp",
        "collected",
        "reserve",
    )
)
"""All names at the top of a store but those of what was set aside; see Store."""


def default_folder() -> Path:
    """MBUILD_CACHE_DIR, or mbuild in XDG_CACHE_HOME, or ~/.cache/mbuild."""
    if chosen := os.environ.get("MBUILD_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "mbuild"


class Store:
    """Everything mbuild keeps.

        version               the form of the folder: cache/versions.py
        oci-layout            \\
        index.json             > an OCI layout: the images kept by name
        blobs/sha256/...      /  and every layer
        index/                the diskcache: keys -> results
        layers/...            what is in a layer, by diff id
        disks/...             layers as squashfs, for guests
        vm/...                templates, scratch disks, the accelerator's verdict
        machines/...          machines that were made or pulled
        locks/...             one file a lock
        used/...              when things were last used: cache/uses.py
        mounts/...            the caches of RUN --mount=type=cache: engine/cachemounts.py
        contexts/...          what files of build contexts hashed to, a file a folder of the host, and how Machinefiles
                              parse, a file each: cache/parses.py; may go at any time
        tmp/...               what is half done, a folder a process
        aside.N/...           a store of the older version N, which this mbuild cannot read
        collected             touched when what nobody uses was last looked for
        reserve               room that is given back to clean up on a full disk: cache/reserve.py

    Any number of processes share it. A context manager: leaving it removes what this process left half done.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.set_aside = settle(self.root)
        """Where what an older mbuild had made was put just now, if it was."""
        with store_errors(f"opening the store {root}"):
            for name in ("blobs/sha256", "layers", "disks", "vm", "locks", "tmp", "used"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        self._workspace = Workspace(self.root / "tmp")
        try:
            self._write_once("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        except BaseException:
            self._workspace.close()
            raise
        self.temporary = self._workspace.path
        self.index = Index(self.root / "index")
        self._steps = KnownSteps()
        self.chains = Chains(self.index)
        """How results are written into the index, and read."""
        self.seals = Seals(self.root, self.index)
        """Which files are known to be right."""
        self.settling = Settling(self.seals)
        """What is still to be flushed."""
        self.blobs = BlobStore(self.root, self.temporary, self.seals)
        self.names = Names(self.root, self.root / "locks", self.temporary)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        with span("close the store", "phase"):
            self.settling.close(wait=kind is None)
            self.index.close()
            self._workspace.close()

    @property
    def vm_folder(self) -> Path:
        """Where the hypervisor keeps its templates."""
        return self.root / "vm"

    @property
    def uses(self) -> Uses:
        """Notes what is used, and says when things last were."""
        return self.blobs.uses

    def others_began(self) -> float | None:
        """When the oldest other process began that uses the store; see cache/workspace.py."""
        return self._workspace.others_began()

    def now(self) -> float:
        """The time by the clock of the store's file system."""
        return self._workspace.now()

    def folder(self) -> Path:
        """A new empty folder for temporary files, on the file system of the store."""
        return self._workspace.folder()

    def derived(self, kind: str, identity: str) -> Path:
        """The place of something made from blobs: `layers` or `disks`, by a digest."""
        return self.root / kind / identity.replace(":", "-")

    def lock(
        self,
        name: str,
        *,
        cancelled: threading.Event | None = None,
        waiting: Callable[[], None] | None = None,
    ) -> AbstractContextManager[bool]:
        """See cache.locks.locked."""
        return locked(self.root / "locks", name, cancelled=cancelled, waiting=waiting)

    def result(
        self, kind: Kind, key: str, seen: set[str] | None = None, content: bytes | None = None
    ) -> StepResult | None:
        """The result under a definition or content key, if all its layers are still here, and sound.

        One that cannot be read is forgotten. `seen` has the digests of layers that were found for other results just
        now: each result of a chain holds all those below it, which are not looked for again. `content` is what
        the entry says, if it was read already.
        """
        content = self.index.content(kind, key) if content is None else content
        if content is None:
            return None
        try:
            chained = self.chains.is_chained(content)
            result = self.chains.result(json.loads(content)) if chained else StepResult.read(content, self._steps)
        except (ValueError, RecursionError):
            self.index.drop(kind, key)
            return None
        seen = set() if seen is None else seen
        for layer in result.steps:
            if layer is not None and layer.digest not in seen:
                if not self.blobs.is_sound(layer.digest, layer.size):
                    return None
                seen.add(layer.digest)
        return result

    def keep(self, definition: Record, content_key: str, result: StepResult, instruction: str = "") -> None:
        """Remember what a step came to, and what to call it. Its blobs must be in the store already."""
        key = definition.key()
        if (packed := pack(definition, instruction)) is not None:
            self.index.put(Kind.RECORD, key, packed)
        written = self.chains.written(result)
        self.index.put(Kind.CONTENT, content_key, written)
        self.index.put(Kind.RESULT, key, written)

    def _write_once(self, name: str, content: bytes) -> None:
        path = self.root / name
        if not path.exists():
            with store_errors(f"writing {name} in the store"):
                write_atomically(path, content, self._workspace.path)
