"""What every display is."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from engine.events import Event


class Display(ABC):
    """An observer of a build's events and a context manager. Events may come from any thread, and are shown
    one at a time; those that come after the context was left are dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = False

    def __enter__(self) -> Self:
        self._open = True
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._open = False
        self.end()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if self._open:
                self.show(event)

    def begin(self) -> None:  # noqa: B027 - most have nothing to begin
        """Called once, before the first event."""

    @abstractmethod
    def show(self, event: Event) -> None:
        """Take one event. Never called by two threads at once."""

    def end(self) -> None:  # noqa: B027
        """Called once, after the last event, whether or not the build went well."""
