"""A sandbox around another, and one around another that is made when the first step needs it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from engine.vm.execution import Execution, Outlook, Output, Result, Sandbox
    from machinefile.steps import MachineShape


class OuterSandbox:
    """Does all as the sandbox inside it: who derives from it says what is done otherwise."""

    def __init__(self, inner: Sandbox) -> None:
        self._inner = inner

    @property
    def inner(self) -> Sandbox:
        """The sandbox that it stands around."""
        return self._inner

    def execute(
        self, execution: Execution, output: Output, cancelled: threading.Event
    ) -> AbstractContextManager[Result]:
        """As of Sandbox."""
        return self.inner.execute(execution, output, cancelled)

    def merge(self, newer: Path, into: Path, shape: MachineShape, cancelled: threading.Event) -> None:
        """As of Sandbox."""
        self.inner.merge(newer, into, shape, cancelled)

    def expect(self, outlook: Outlook, cancelled: threading.Event) -> None:
        """As of Sandbox."""
        self.inner.expect(outlook, cancelled)

    def forget(self) -> None:
        """As of Sandbox."""
        self.inner.forget()

    @property
    def starts(self) -> int:
        """As of Sandbox."""
        return self.inner.starts


class LazySandbox(OuterSandbox):
    """Stands for the sandbox that `make` gives, and makes it when there is something for it to do."""

    def __init__(self, make: Callable[[], Sandbox]) -> None:
        self._make = make
        self._made: Sandbox | None = None
        self._lock = threading.Lock()

    @property
    def inner(self) -> Sandbox:
        """The sandbox, made now if it was not before."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def forget(self) -> None:
        """As of Sandbox; one that was not made has nothing to let go of."""
        if self._made is not None:
            self._made.forget()

    @property
    def starts(self) -> int:
        """As of Sandbox."""
        return self._made.starts if self._made is not None else 0
