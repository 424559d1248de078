"""When things of the store were last used, and what a process relies on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cache.gate import Gate


class Uses:
    """Notes what this process uses, so that no collection takes it away.

        used/.gate      see cache/gate.py
        used/NAME       an empty file for each thing: it was changed when the thing was last used

    NAME is the thing's path in the store, `+` for each `/`. The times of the things themselves say when they were
    made, and stay as they are: whether a file was touched is how damage is found.

    Whoever removes things keeps all that was used or written since the oldest process began that still runs
    (cache/workspace.py). So it is enough to note a use once a process, before what is there is relied on. In a store
    that cannot be written nothing is noted; nobody can remove anything there either.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._prefix = f"{root}/"
        self._folder = root / "used"
        self.gate = Gate(self._folder / ".gate")
        self._noted: set[str] = set()

    def find(self, path: Path) -> os.stat_result | None:
        """What is at a path of the store, None for nothing; if it is there, it is in use from now on.

        Raises StoreError (`store-busy`) when a collection does not come to its end.
        """
        name = self._name(path)
        if name in self._noted:
            return _stat(path)
        with self._open_gate():
            status = _stat(path)
            if status is not None:
                self._note(name)
        return status

    def times(self) -> Mapping[str, float]:
        """When each thing was last used (seconds since 1970), by `name`; of things that are gone too."""
        found: dict[str, float] = {}
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                with suppress(FileNotFoundError):
                    found[entry.name] = entry.stat(follow_symlinks=False).st_mtime
        return found

    def last(self, name: str) -> float:
        """When the thing of that name was last used (seconds since 1970); 0 where nothing says so."""
        try:
            return (self._folder / name).stat(follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return 0.0

    def name(self, path: Path) -> str:
        """What `times` calls a thing."""
        return self._name(path)

    def forget(self, name: str) -> None:
        """The thing of that name is gone."""
        self._noted.discard(name)
        with suppress(OSError):
            (self._folder / name).unlink()

    def _name(self, path: Path) -> str:
        text = str(path)  # relative_to takes longer than the stat
        below = text.startswith(self._prefix)
        return (text.removeprefix(self._prefix) if below else str(path.relative_to(self._root))).replace("/", "+")

    @contextmanager
    def _open_gate(self) -> Iterator[None]:
        if not self._folder.is_dir():
            try:
                os.makedirs(self._folder, exist_ok=True)
            except OSError:
                yield
                return
        with self.gate.shared():
            yield

    def _note(self, name: str) -> None:
        path = self._folder / name
        with suppress(OSError):
            try:
                os.utime(path)
            except FileNotFoundError:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        self._noted.add(name)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
