"""A sandbox that is made when the first step needs it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from engine.vm.execution import Execution, Outlook, Output, Result, Sandbox
    from machinefile.steps import MachineShape


class LazySandbox:
    """Stands for the sandbox that `make` gives."""

    def __init__(self, make: Callable[[], Sandbox]) -> None:
        self._make = make
        self._made: Sandbox | None = None
        self._lock = threading.Lock()

    def execute(
        self, execution: Execution, output: Output, cancelled: threading.Event
    ) -> AbstractContextManager[Result]:
        return self._sandbox().execute(execution, output, cancelled)

    def merge(self, newer: Path, into: Path, shape: MachineShape, cancelled: threading.Event) -> None:
        self._sandbox().merge(newer, into, shape, cancelled)

    def expect(self, outlook: Outlook, cancelled: threading.Event) -> None:
        self._sandbox().expect(outlook, cancelled)

    def forget(self) -> None:
        if self._made is not None:
            self._made.forget()

    def _sandbox(self) -> Sandbox:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    @property
    def starts(self) -> int:
        return self._made.starts if self._made is not None else 0
