"""The connection over which the index reads."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

from cache.database import FILE, Identity, identity


class Reader:
    """A connection that only reads, and that follows the database's file when another takes its name. Threads may
    share one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: tuple[sqlite3.Connection, Identity] | None = None
        """And the database's file that it has open."""
        self._lock = threading.Lock()

    def rows(self, query: str, *parameters: object) -> list[Any] | None:
        """What a query finds; None where there is no database. Raises sqlite3.Error, and begins anew afterwards."""
        with self._lock:
            there = identity(self._folder)
            if self._open is not None and self._open[1] != there:
                self._let_go()
            if there is None:
                return None
            try:
                return self._connected(there).execute(query, parameters).fetchall()
            except sqlite3.Error:
                self._let_go()
                raise

    def close(self) -> None:
        """Give back the database's file."""
        with self._lock:
            self._let_go()

    def _connected(self, there: Identity) -> sqlite3.Connection:
        if self._open is None:
            file = self._folder / FILE
            connection = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
            self._open = connection, there
            connection.execute("PRAGMA mmap_size = 0")  # see open_cache
        return self._open[0]

    def _let_go(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened[0].close()
