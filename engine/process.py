"""The one gate for other programs: argv as a list, an environment built from nothing, no standard input,
standard error kept for the error, and death together with mbuild."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from machinefile.errors import HostError

_PR_SET_PDEATHSIG = 1
_KEPT = ("PATH", "HOME", "TMPDIR")
_libc = ctypes.CDLL(None, use_errno=True)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child sees: PATH, HOME and TMPDIR as they are here, the C locale, UTC, and `extra`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # mke2fs and qemu stand in sbin, which an ordinary user's PATH often lacks.
    kept["PATH"] = ":".join([kept.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return {**kept, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def find(program: str) -> str | None:
    """The absolute path of a program, looked up as `spawn` does, or None."""
    import shutil

    return shutil.which(program, path=environment()["PATH"])


def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.PIPE,
    stderr: int | IO[bytes] = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
    cwd: str | os.PathLike[str] | None = None,
    extra_environment: Mapping[str, str] | None = None,
    hint: str = "",
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own (a terminal's Ctrl-C is ours to handle) that dies with us.

    Raises HostError (`program-missing`) with `hint` when there is no such program. The kernel ties the
    child's life to the thread that starts it: start long-lived children from a thread that outlives them.
    """
    # What these have done at a fork must be set up whole: another thread may be importing them just now, and a lock
    # would be released that nobody holds.
    import concurrent.futures.thread  # noqa: F401 - and logging with it

    parent = os.getpid()
    # No core files: a guest's memory holds secrets. With 1 the kernel pipes none to a collector either (do_coredump).
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    core = 0 if hard == 0 else 1

    def die_with_parent() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (core, core))
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above
            os._exit(1)

    try:
        return subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment(extra_environment),
            start_new_session=True,
            preexec_fn=die_with_parent,
            pass_fds=tuple(pass_fds),
            cwd=cwd,
        )
    except (FileNotFoundError, PermissionError) as error:  # the latter when PATH has a folder we may not look into
        raise HostError(
            f"the program {argv[0]} is not installed",
            code="program-missing",
            hint=hint or "run: mbuild doctor",
        ) from error


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Holds a child: on leaving, whatever the reason, it is killed if it still runs, and reaped."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def run(argv: Sequence[str], *, timeout: float, hint: str = "", **options: Any) -> bytes:
    """Run a short program to its end and give its standard output.

    `timeout` in seconds. Raises HostError: `program-missing`, `program-failed` (with its standard error),
    `program-timeout`.
    """
    process = spawn(argv, hint=hint, **options)
    with running(process):
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise HostError(f"{argv[0]} did not finish in {timeout:g} s", code="program-timeout", hint=hint) from error
    if process.returncode:
        text = errors.decode(errors="replace").strip() if errors else ""
        raise HostError(
            f"{argv[0]} failed with exit code {process.returncode}: {text or 'no message'}",
            code="program-failed",
            hint=hint,
        )
    return output or b""
