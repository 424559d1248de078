"""The user's terminal, signals and standard streams, connected with a command in a microVM."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from engine.vm.session import Session, Size
from machinefile.errors import UsageError

_STDIN = 0
_PASSED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The second of one of these ends the microVM."""


def make_session(*, interactive: bool, terminal: bool, cancelled: threading.Event) -> Session:
    """A command that gets our signals and, if `interactive`, our standard input; with a terminal, or without one.

    Raises UsageError `terminal-missing`.
    """
    at_terminal = is_terminal(_STDIN)
    if interactive and terminal and not at_terminal:
        raise UsageError(
            "standard input is no terminal, so -t cannot lead to one", code="terminal-missing", hint="leave -t out"
        )
    takes_keys = interactive and terminal

    @contextmanager
    def meanwhile(session: Session) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(passing_signals(session, cancelled))
            if takes_keys:
                stack.enter_context(raw(_STDIN))
            yield

    return Session(_STDIN if interactive else None, terminal_size if terminal else None, meanwhile)


def is_terminal(descriptor: int) -> bool:
    """Whether it is open, and a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def terminal_size() -> Size:
    """How large the terminal is that we write to, or read from."""
    for descriptor in (1, _STDIN, 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return Size(size.lines, size.columns)
    return Size(24, 80)


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Every key goes through as it is, Ctrl-C too; whatever happens, the terminal is as before afterwards."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


@contextmanager
def passing_signals(session: Session, cancelled: threading.Event) -> Iterator[None]:
    """Signals go to the command; the second Ctrl-C, SIGTERM or SIGHUP ends its machine."""
    seen: set[int] = set()

    def handle(number: int, frame: FrameType | None) -> None:
        if number in seen:
            cancelled.set()
            raise KeyboardInterrupt
        if number in _ENDING:
            seen.add(number)
        session.signal(number)

    before = {number: signal.getsignal(number) for number in _PASSED}
    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, handle)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pass_on(stream: int, data: bytes) -> None:
    """What the command writes goes to our own standard streams."""
    out = (sys.stdout if stream == 1 else sys.stderr).buffer
    out.write(data)
    out.flush()
