"""What was found out about files of this machine, for as long as they are as they were.

VM_DIR/known.json    {key: {"stamp": [[path, device, inode, size, mtime in ns, ctime in ns], ...], "value": text}}

QEMU's version and the digest of the guest's kernel are wanted for every build that runs something; to find them out
takes as long as restoring a microVM.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_MOST_BYTES = 1 << 20
_MOST_TEXT = 200
"""Characters of a value."""


def known(vm_dir: Path, key: str, files: Sequence[Path], find_out: Callable[[], str]) -> str:
    """A text of at most 200 characters about files: as it is remembered, or as `find_out` finds it out.

    Raises what `find_out` raises. A file that is changed and then given its old size and times back is taken for the
    old one only if the clock of this machine was turned back too.
    """
    stamp = _stamp(files)
    remembered = _read(vm_dir)
    entry = remembered.get(key)
    if stamp is not None and isinstance(entry, dict) and entry.get("stamp") == stamp:
        value = entry.get("value")
        if isinstance(value, str) and 0 < len(value) <= _MOST_TEXT:
            return value
    value = find_out()
    if stamp is not None and stamp == _stamp(files):  # else it was changed meanwhile
        _write(vm_dir, {**remembered, key: {"stamp": stamp, "value": value}})
    return value


def _stamp(files: Sequence[Path]) -> list[list[str | int]] | None:
    try:
        found = [(path, path.stat()) for path in files]
    except OSError:
        return None
    return [[str(p), at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns] for p, at in found]


def _read(vm_dir: Path) -> dict[str, object]:
    try:
        with (vm_dir / "known.json").open("rb") as file:
            found = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(vm_dir: Path, entries: dict[str, object]) -> None:
    new = vm_dir / f".known.{os.urandom(6).hex()}"
    with suppress(OSError):  # it is found out anew then
        try:
            new.write_text(json.dumps(entries))
            new.replace(vm_dir / "known.json")
        finally:
            new.unlink(missing_ok=True)
