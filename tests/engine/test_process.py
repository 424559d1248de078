"""Other programs: started without a copy of this process, in a session of their own, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e_processes import wait_until

from engine import process
from machinefile.errors import HostError

_BEARER = """
import sys, time
from engine import process
child = process.spawn([sys.argv[1], "300"], stdout=sys.stdout.fileno(), new_privileges=False)
print(child.pid, flush=True)
time.sleep(300)
"""
_FORKS = """
import os
from engine import process
os.register_at_fork(before=lambda: print("copied", flush=True))
print(process.run(["echo", "ran"], timeout=60).decode(), end="", flush=True)
"""


def test_a_program_is_started_without_a_copy_of_this_process() -> None:
    """In a copy of a process with threads Python's code may wait for good for a lock that no thread has."""
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("ran\n", "")


@pytest.mark.parametrize("set_group", [False, True], ids=["plain", "set-group-ID"])
def test_a_program_dies_with_who_started_it(tmp_path: Path, set_group: bool) -> None:
    program = tmp_path / "sleep"
    shutil.copy(process.find("sleep") or "sleep", program)
    if set_group:
        if os.getuid() == 0:
            os.chown(program, 0, 65534)
        elif not os.getgroups():
            pytest.skip("an ordinary user has no other group to give it to")
        else:
            os.chown(program, -1, os.getgroups()[0])
        program.chmod(0o2755)
    with subprocess.Popen([sys.executable, "-c", _BEARER, program], stdout=subprocess.PIPE) as bearer:
        assert bearer.stdout is not None
        child = int(bearer.stdout.readline())
        assert wait_until(lambda: _argv(child)[:1] == [str(program)])
        bearer.kill()
        assert wait_until(lambda: not _argv(child))
        assert bearer.stdout.read() == b"", "nobody has the other end any more"


def test_a_program_whose_starter_died_before_it_could_be_tied_to_it_is_not_run(tmp_path: Path) -> None:
    argv = [process.find("touch") or "touch", str(tmp_path / "ran")]
    for parent, code in ((os.getppid(), 1), (os.getpid(), 0)):
        assert not (tmp_path / "ran").exists()
        done = subprocess.run(process.leashed(argv[0], argv[1:], parent), timeout=60, check=False)
        assert done.returncode == code
    assert (tmp_path / "ran").exists()


def test_arguments_and_input_reach_a_program_as_they_are(tmp_path: Path) -> None:
    words = ["", "a b", "$HOME", "--", "'\"\\\n*", "\udcff"]
    (tmp_path / "in").write_bytes(b"input\0")
    with (tmp_path / "in").open("rb") as given:
        said = process.run(["sh", "-c", 'cat; printf "%s|" "$0" "$@"', *words], timeout=60, stdin=given, cwd=tmp_path)
    assert said == b"input\0" + b"".join(os.fsencode(word) + b"|" for word in words)


def test_a_program_has_a_session_of_its_own_and_the_pid_that_is_known() -> None:
    child = process.spawn(["sh", "-c", "echo $$; exec sleep 300"])
    with process.running(child):
        assert child.stdout is not None
        assert int(child.stdout.readline()) == child.pid
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    assert child.returncode == -signal.SIGKILL


def _no_program(file: Path) -> None:
    file.write_bytes(b"\x7fELF nonsense")
    file.chmod(0o755)


def _not_executable(file: Path) -> None:
    file.write_text("#!/bin/sh\n")


def _no_interpreter(file: Path) -> None:
    file.write_text("#!/nonexistent/sh\n")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("make", "code"),
    [(_no_program, "program-failed"), (_not_executable, "program-missing"), (_no_interpreter, "program-failed")],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)
def test_what_cannot_be_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], code: str
) -> None:
    make(tmp_path / "odd-program")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="odd-program") as caught:
        process.run(["odd-program"], timeout=60)
    assert caught.value.code == code


def _argv(pid: int) -> list[str]:
    """Of a process; nothing when it is no more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError:
        return []
