"""The one gate for other programs: argv as a list, an environment built from nothing, no standard input,
standard error kept for the error, and death together with mbuild."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import IO, Any

from machinefile.errors import HostError

_KEPT = ("PATH", "HOME", "TMPDIR")
_IF_CHILD_OF = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'
"""For sh: runs a command, unless the parent is another process than the one that is named first."""


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
    new_privileges: bool = True,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own (a terminal's Ctrl-C is ours to handle) that dies with us.

    Raises HostError (`program-missing`) with `hint` when there is no such program. The kernel ties the
    child's life to the thread that starts it: start long-lived children from a thread that outlives them. It unties
    a program that is set-user-ID or set-group-ID; without `new_privileges` these bits count for nothing.
    """
    env = environment(extra_environment)
    return subprocess.Popen(
        leashed(_place(argv[0], env["PATH"], hint), argv[1:], os.getpid(), new_privileges=new_privileges),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
        start_new_session=True,
        pass_fds=tuple(pass_fds),
        cwd=cwd,
    )


def leashed(program: str, arguments: Sequence[str], parent: int, *, new_privileges: bool = True) -> list[str]:
    """The command that makes of a child of `parent` (its pid) that program, to be killed with the thread that
    started it. Where the parent dies before it is so, nothing is run. Raises HostError `program-missing`.

    Programs do this, because no code of ours may run between fork and exec (`preexec_fn`): in a copy of a process
    with threads it can wait for good for what a thread held that was not copied. It is also quicker.
    """
    setpriv, prlimit = (_own_place(name) for name in ("setpriv", "prlimit"))
    # No core files: a guest's memory holds secrets. With 1 the kernel pipes none to a collector either (do_coredump).
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    core = 0 if hard == 0 else 1
    return [
        *(setpriv, "--pdeathsig", "KILL", *(() if new_privileges else ("--no-new-privs",)), "--"),
        *(prlimit, f"--core={core}:{core}"),
        *("/bin/sh", "-c", _IF_CHILD_OF, "sh", str(parent)),
        *(program, *arguments),
    ]


@cache
def _own_place(name: str) -> str:
    path = ":".join([os.environ.get("PATH", os.defpath), "/usr/bin", "/bin"])
    return _place(name, path, "it is in the package util-linux")


def _place(name: str, path: str, hint: str) -> str:
    """Where a program lies. Raises HostError `program-missing`."""
    import shutil

    place = shutil.which(name, path=path)
    if place is None:
        raise HostError(
            f"the program {name} is not installed", code="program-missing", hint=hint or "run: mbuild doctor"
        )
    return place


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
