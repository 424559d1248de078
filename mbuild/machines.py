"""What `mbuild run` does with a machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cache.names import NamedImage
from cache.store import Store
from engine.events import Note, Observer
from engine.images.manifest import Manifest, parse_manifest
from engine.images.reference import Reference
from engine.imagestore import find
from engine.machines.library import MANIFEST, Library, Machine
from engine.machines.run import MachineRun, cold_execution, run_restored, why_cold
from engine.machines.transfer import is_machine
from engine.runner import RunRequest
from engine.vm.execution import Execution, Output
from engine.vm.qemu import QemuHypervisor
from engine.vm.session import Session
from machinefile.errors import MbuildError, UsageError


def find_machine(store: Store, name: str) -> Machine | None:
    """The machine that a name of the store, or a folder, stands for; None for an image without one.

    Its folder is absolute. Raises UsageError (`machine-unknown`), UntrustedDataError, HostError.
    """
    folder = Path(name)
    if name == "." or ("/" in name and os.path.isdir(folder)):
        return Library(store).open(folder)
    named = None
    with suppress(UsageError):
        named = store.names.get(str(Reference.parse(name)))
    if named is not None:
        return Library(store).of(named.digest)
    return Library(store).open(folder) if os.path.isfile(folder / MANIFEST) else None


def machine_alone(store: Store, name: str, *, wanted: bool) -> Machine | None:
    """The machine that is meant where an image could be: a folder's, one that has the name, or with `wanted` the one
    of the image of that name; None for an image.

    Raises UsageError (`machine-unknown`), UntrustedDataError.
    """
    machine = find_machine(store, name)
    if machine is None and wanted:
        raise UsageError(
            f"there is no machine of {name!r}",
            code="machine-unknown",
            hint="add SNAPSHOT to its Machinefile and build it again",
        )
    if machine is None or wanted or machine.folder.parent != Library(store).path(""):
        return machine
    return machine if is_machine_name(store, find(store, name)) else None


def is_machine_name(store: Store, named: NamedImage) -> bool:
    """Whether a name stands for a machine alone, not for an image."""
    try:
        manifest = parse_manifest(store.blobs.read(named.digest))
    except MbuildError:
        return False
    return isinstance(manifest, Manifest) and is_machine(manifest)


RunCold = Callable[[Execution], int]
"""Runs a program in a microVM that starts from its disk, and gives its exit code."""


def run_machine(
    machine: Machine,
    name: str,
    request: RunRequest,
    store: Store,
    output: Output,
    tell: Observer,
    cancelled: threading.Event,
    run_cold: RunCold,
    *,
    cold: str = "",
) -> int:
    """Restore a machine, or boot it cold where it does not fit this host, `cold` says why it should be, or it is to
    run another command; gives the exit code.

    Raises as `run_restored`, `why_cold` and `cold_execution`.
    """
    hypervisor = QemuHypervisor(store.vm_folder, tell)
    reason = why_cold(machine, name, hypervisor, cancelled)
    if reason:
        tell(Note(f"the machine {name} cannot be restored here: {reason}; booting it cold from its disk"))
    elif request.command:
        reason = "a restored machine runs what it was frozen with"
        tell(Note(f"booting {name} cold for another command: {reason}"))
    elif cold:
        reason = cold
        tell(Note(f"booting {name} cold from its disk: {reason}"))
    if reason:
        return run_cold(cold_execution(machine, store.folder(), request))
    session = request.session or Session()
    run = MachineRun(request.ports, request.hostname, lambda: tuple(session.signals()))
    with session.meanwhile(session):
        return run_restored(machine, run, hypervisor, store.vm_folder, output, cancelled)
