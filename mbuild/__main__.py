"""The command `mbuild`."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from machinefile.errors import HostError, InterruptedBuildError, MbuildError
from mbuild.report import render

_COMMANDS = (
    *("build", "plan", "explain", "verify", "parse", "lint", "lock", "debug", "run"),
    *("images", "inspect", "pull", "push", "tag", "rmi", "attest", "cache", "doctor"),
)
_OBJECTS = 20_000
"""New ones after which the collector of cycles looks at them: at Python's 700 it looks a hundred times while a command
imports what it needs, and finds nothing."""


def run() -> NoReturn:
    """Run the command, and end the process."""
    code = main()
    # Python takes as long to pull down what it set up as a tenth of a cached build, and the kernel does it too.
    is_idle = all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if is_idle and not atexit._ncallbacks():
        with suppress(OSError, ValueError):
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
            os._exit(code)
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: see machinefile/errors.py for what each means."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(_OBJECTS)
    cancelled = threading.Event()
    _watch_signals(cancelled)
    _print_anything()
    name = arguments.pop(0) if arguments and arguments[0] in _COMMANDS else "build"
    try:
        code = _command(name)(arguments, cancelled)
        if sys.stdout is not None:
            sys.stdout.flush()  # what cannot be written shows here, and not as the interpreter ends
        return code
    except KeyboardInterrupt:
        return _fail(InterruptedBuildError())
    except MbuildError as error:
        return _fail(error)
    except BrokenPipeError:
        # Who read our output has gone; there is nobody to tell.
        sys.stdout = None  # or Python complains once more when it exits
        return 1
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        return _fail(HostError(f"{where}{error.strerror or error}", code="host-failed"))
    except RecursionError:
        return _fail(MbuildError("something is nested too deeply", code="too-deep"))


def _command(name: str) -> Callable[[Sequence[str], threading.Event], int]:
    # Each command imports what it needs and nothing more: a plan needs no VM, a list of images no parser.
    command: Callable[[Sequence[str], threading.Event], int]
    command = importlib.import_module(f"mbuild.commands.{name}").main
    return command


def _fail(error: MbuildError) -> int:
    with suppress(OSError):  # there is nowhere else to say it
        print(render(error), file=sys.stderr)
    return error.exit_code


def _print_anything() -> None:
    """Write out what the terminal's encoding does not have: names and contents of files may be in any script."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Forget standard output if it cannot be written, or Python complains once more when it exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = None


def _watch_signals(cancelled: threading.Event) -> None:
    """The first Ctrl-C or SIGTERM stops the build in order; later ones must not disturb that."""
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if not cancelled.is_set():
            cancelled.set()
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


if __name__ == "__main__":
    run()
