"""The form of a store: an older one is brought to today's, or set aside; a newer one is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from cache.files import store_errors, sync_directory, write_atomically
from cache.locks import locked
from cache.workspace import any_alive
from machinefile.errors import StoreError

VERSION = 1
"""Raise it when what is in the store would be read wrongly by the mbuild before. Then either give MIGRATIONS an entry
for the version before, or have such stores set aside."""

Migration = Callable[[Path], None]
"""Brings a store from one version to the next. May be cut off anywhere, and is then called again."""

MIGRATIONS: Mapping[int, Migration] = {}
"""By the version that they begin with."""

_KEPT = ("locks", "tmp", "version", "reserve")
"""What is in a store of every version, and says nothing of what it holds."""


def settle(root: Path, version: int = VERSION, migrations: Mapping[int, Migration] = MIGRATIONS) -> Path | None:
    """Make sure that a folder holds a store of this version. Gives the folder where an older one was set aside.

    One process does so, the others wait for it. Raises StoreError: `store-version` for a newer store,
    `store-in-use` while another mbuild works with the older one, and those of writing.
    """
    found = _read(root)
    if found == version:
        return None
    with store_errors(f"opening the store {root}"):
        (root / "locks").mkdir(parents=True, exist_ok=True)
        (root / "tmp").mkdir(exist_ok=True)
    with locked(root / "locks", "the version of the store"):
        found = _read(root)
        aside = None
        if found is not None and found > version:
            raise StoreError(
                f"the store {root} was made by a newer mbuild (its version is {found}, this mbuild knows {version})",
                code="store-version",
                hint="use that mbuild, or another folder with --cache-dir",
            )
        if found is not None and found < version:
            if any_alive(root / "tmp"):
                raise StoreError(
                    f"an older mbuild is using the store {root}, which has to be brought to a new form",
                    code="store-in-use",
                    hint="try again when it has ended, or use another folder with --cache-dir",
                )
            aside = _bring(root, found, version, migrations)
        if found != version:
            _write(root, version)
        return aside


def _bring(root: Path, found: int, version: int, migrations: Mapping[int, Migration]) -> Path | None:
    """From version to version; where one has no way on, everything is set aside."""
    if not all(step in migrations for step in range(found, version)):
        return _set_aside(root, found)
    for step in range(found, version):
        with store_errors(f"bringing the store {root} to version {step + 1}"):
            migrations[step](root)
        _write(root, step + 1)
    return None


def _set_aside(root: Path, found: int) -> Path:
    """Move all that an older store holds into a folder of its own. The version is written after that: who dies on the
    way leaves an older store, whose rest is moved next time."""
    aside = root / f"aside.{found}"
    with store_errors(f"setting the older store in {root} aside"):
        aside.mkdir(exist_ok=True)
        for name in os.listdir(root):
            if name not in _KEPT and not name.startswith("aside."):
                (root / name).rename(aside / name)
        sync_directory(aside)
        sync_directory(root)
    return aside


def _read(root: Path) -> int | None:
    """The version; None for what is no store yet."""
    with store_errors("reading the version of the store"):
        try:
            with (root / "version").open("rb") as file:
                text = file.read(64).decode(errors="replace").strip()
        except FileNotFoundError:
            return None
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    raise StoreError(
        f"{root} is no store of mbuild that can be read: its version is {text!r}",
        code="store-version",
        hint="use another folder with --cache-dir, or remove this one",
    )


def _write(root: Path, version: int) -> None:
    with store_errors("writing the version of the store"):
        write_atomically(root / "version", str(version).encode(), root / "locks")
