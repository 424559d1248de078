"""WORKDIR carried out: a directory made where it is missing."""

from __future__ import annotations

from dataclasses import replace

from cache.results import Layer
from engine.layers.entry import Entry, EntryType
from engine.layers.names import ancestors_of
from engine.layers.tarwrite import Item
from engine.layers.users import UserDatabase
from engine.layerstore import LayerStore
from machinefile.errors import MachinefileError, StepError
from machinefile.steps import Workdir


def make_workdir(operation: Workdir, below: tuple[Layer, ...], layers: LayerStore) -> Layer | None:
    """The layer with the directory and those above it that were missing; None where it is there already.

    They are 0755 and belong to the USER in force, as BuildKit makes them: by the rules of --chown, so that a number
    alone is a group too, and to root where the image has no user of that name.
    Raises MachinefileError (`copy-conflict`) where something that is no directory is in the way.
    """
    view = layers.view(below)
    uid, gid = _owner(operation.user, view.users)
    path = view.resolve(operation.path)
    entries: list[Entry] = []
    missing, now = 0, layers.times.now()
    for step in (*ancestors_of(path), path):
        located = view.lookup(step)
        if located is None:
            missing += 1
            entries.append(Entry(step, EntryType.DIRECTORY, 0o755, uid, gid, mtime=now))
        elif located.entry.type is not EntryType.DIRECTORY:
            raise MachinefileError.one(
                f"WORKDIR {operation.path}: /{step} is there and is not a directory", code="copy-conflict"
            )
        elif step:
            entries.append(layers.times.of(replace(located.entry, opaque=False)))
    return layers.write([Item(entry) for entry in entries]) if missing else None


def _owner(user: str, users: UserDatabase) -> tuple[int, int]:
    try:
        return users.owner(user)
    except StepError:
        return 0, 0  # nobody asked for an owner here; what then runs as that user is refused
