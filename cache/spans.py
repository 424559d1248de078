"""Where the time goes: spans of time, for who records them. Nothing is kept unless somebody does."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Final, Protocol, TypeVar

from machinefile.errors import MbuildError
from machinefile.values import dataclass

_NUMBER = re.compile(r"(?<=[a-z])_[0-9]+$|(?<=^Thread)-[0-9].*")
"""What tells the threads of a pool apart, and those without a name."""

MOST = 100_000
"""Spans that a recording keeps."""

_T = TypeVar("_T")
Value = str | int | float | bool
"""What may be said of a span."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A span of time."""

    name: str
    category: str
    row: int
    """The spans of a row nest; see `Recording.rows`."""
    begun: float
    """Seconds since the recording's origin."""
    seconds: float
    facts: Mapping[str, Value]


class Span(Protocol):
    """Lasts as long as its `with` statement."""

    def note(self, **facts: Value) -> None:
        """Say more of it."""

    def __enter__(self) -> Span: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def span(name: str, category: str, /, **facts: Value) -> Span:
    """What is done within is recorded, if anything is. An error that ends it is noted with its code alone: what it
    says may be anything."""
    recording = _current
    return _OFF if recording is None else recording.span(name, category, facts)


@contextmanager
def ending(context: AbstractContextManager[_T], name: str, category: str) -> Iterator[_T]:
    """The same context, whose end is a span. What ends it is not told to it."""
    with ExitStack() as held:
        try:
            yield held.enter_context(context)
        finally:
            with span(name, category):
                held.close()


@contextmanager
def recorded(origin: float | None = None) -> Iterator[Recording]:
    """Record the spans of all threads; of what is recorded already nothing more is told meanwhile. `origin`, on the
    clock of `time.monotonic`, is when what is recorded began, for example the process."""
    global _current
    before, _current = _current, Recording(origin)
    try:
        yield _current
    finally:
        _current.finish()
        _current = before


class Recording:
    """The spans of one recording, at most MOST; for any threads.

    Each thread has a row while a span of its is open, so that there are as few rows as threads were busy at once.
    """

    def __init__(self, origin: float | None = None) -> None:
        self.origin = time.monotonic() if origin is None else origin
        self.dropped = 0
        """Spans for which there was no room."""
        self.rows: list[str] = []
        """The name of each row: that of its threads, several of which may have the same."""
        self.spans: list[Recorded] = []
        """In the order that they ended."""
        self._begun = 0
        self._finished = False
        self._numbers = itertools.count()
        self._open: dict[int, _Open] = {}
        self._free: dict[str, list[int]] = {}
        self._own = _Own()
        self._lock = threading.Lock()

    def span(self, name: str, category: str, facts: dict[str, Value]) -> Span:
        """See `span`."""
        with self._lock:
            # Those that begin first are kept, so that none is without what it is part of.
            if self._finished or self._begun >= MOST:
                self.dropped += not self._finished
                return _OFF
            self._begun += 1
        return _Open(self, next(self._numbers), name, category, facts)

    def add(self, name: str, category: str, begun: float, ended: float) -> None:
        """Record what is over, by the clock of `time.monotonic`, in this thread's row."""
        found = self.span(name, category, {})
        if isinstance(found, _Open):
            with found:
                found.begun = begun
                found.ended = ended

    def finish(self) -> None:
        """Take no more; what is open still is over now."""
        with self._lock:
            self._finished = True
            for one in self._open.values():
                one.note(unfinished=True)
                self._keep(one)
            self._open.clear()

    def _begin(self, one: _Open) -> None:
        with self._lock:
            if self._own.depth == 0:
                name = _NUMBER.sub("", threading.current_thread().name)
                free = self._free.setdefault(name, [])
                self._own.row = free.pop() if free else len(self.rows)
                if self._own.row == len(self.rows):
                    self.rows.append(name)
            self._own.depth += 1
            one.row = self._own.row
            if not self._finished:
                self._open[one.number] = one
            one.begun = time.monotonic()

    def _end(self, one: _Open) -> None:
        with self._lock:
            self._own.depth -= 1
            if self._own.depth == 0:
                self._free[self.rows[self._own.row]].append(self._own.row)
            if self._open.pop(one.number, None) is not None:
                self._keep(one)

    def _keep(self, one: _Open) -> None:
        ended = time.monotonic() if one.ended is None else one.ended
        begun = max(one.begun, self.origin)
        self.spans.append(
            Recorded(one.name, one.category, one.row, begun - self.origin, max(0.0, ended - begun), dict(one.facts))
        )


class _Own(threading.local):
    """What a thread has in a recording."""

    depth = 0
    """Spans that are open."""
    row = 0


@dataclass(slots=True)
class _Open:
    recording: Recording
    number: int
    name: str
    category: str
    facts: dict[str, Value]
    row: int = 0
    begun: float = 0.0
    ended: float | None = None

    def note(self, **facts: Value) -> None:
        self.facts.update(facts)

    def __enter__(self) -> _Open:
        self.recording._begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if error is not None:
            self.note(failed=error.code if isinstance(error, MbuildError) else type(error).__name__)
        self.recording._end(self)


class _Off:
    """What is not recorded."""

    __slots__ = ()

    def note(self, **facts: Value) -> None:
        pass

    def __enter__(self) -> _Off:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass


_OFF: Final = _Off()
_current: Recording | None = None
