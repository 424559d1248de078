"""mbuild run and mbuild debug as somebody uses them: at a terminal, with input, with signals; and nothing is left."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from e2e_processes import wait_until

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = pytest.mark.vm

TEXT = """\
FROM {base} AS tools
ENV GREETING=hello
WORKDIR /work
RUN echo one > /made
RUN echo two > /made
FROM tools
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["cat /made"]
"""


class AtTerminal:
    """mbuild with a terminal of its own."""

    def __init__(self, mbuild: Mbuild, *arguments: object) -> None:
        self.ours, theirs = pty.openpty()
        self.before = termios.tcgetattr(theirs)
        self.resize(30, 100)
        self.theirs = theirs
        self.process = subprocess.Popen(
            mbuild.argv(*arguments), env=mbuild.environ(), cwd=mbuild.folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.set_blocking(self.ours, False)
        self.screen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def look(self) -> bytes:
        with suppress(BlockingIOError):
            self.screen += os.read(self.ours, 65536)
        return self.screen

    def expect(self, text: str) -> None:
        assert wait_until(lambda: text.encode() in self.look()), self.screen
        self.screen = self.screen[self.screen.index(text.encode()) + len(text) :]

    def end(self) -> int:
        """Its exit code; the terminal must be as it was."""
        assert wait_until(lambda: self.look() is not None and self.process.poll() is not None), self.screen
        assert termios.tcgetattr(self.theirs) == self.before
        return self.process.returncode


@contextmanager
def at_terminal(mbuild: Mbuild, *arguments: object) -> Iterator[AtTerminal]:
    talk = AtTerminal(mbuild, *arguments)
    try:
        yield talk
    finally:
        if talk.process.poll() is None:
            talk.process.kill()
        talk.process.wait(30)
        os.close(talk.ours)
        os.close(talk.theirs)


@pytest.fixture
def context(mbuild: Mbuild, busybox: str) -> object:
    folder = mbuild.context(TEXT.format(base=busybox))
    mbuild.ok("-q", "-t", "app", folder)
    return folder


def test_a_shell_at_a_step_before_and_after_it(mbuild: Mbuild, context: object) -> None:
    look = 'cat /made; echo "$GREETING $PWD"'
    seen = [
        mbuild.ok("debug", *words, context, "--", "/bin/sh", "-c", look).stdout
        for words in (["tools.4"], ["5"], ["tools"], ["tools.4", "--after"])
    ]
    assert seen == [f"{made}\nhello /work\n" for made in ("one", "one", "two", "two")]
    assert mbuild("debug", "tools.3", context, stdin="ls /made; exit 6").returncode == 6
    for words, said in (("nothing", "has no step"), ("tools.", "may be any of")):
        refused = mbuild("debug", words, context)
        assert refused.returncode == 2
        assert said in refused.stderr
    assert not mbuild.machines()


def test_a_shell_at_a_terminal(mbuild: Mbuild, context: object) -> None:
    with at_terminal(mbuild, "debug", "tools.4", context) as talk:
        talk.type("stty size; tty\n")
        talk.expect("30 100")
        talk.expect("/dev/pts/0")
        talk.resize(44, 132)
        talk.type("while [ \"$(stty size)\" != '44 132' ]; do sleep 0.1; done; echo re''sized\n")
        talk.expect("resized")
        talk.type("sh -c \"echo star''ted; exec sleep 1000\"\n")
        talk.expect("started")
        talk.type("\x03")
        talk.type("echo still he''re\n")
        talk.expect("still here")
        talk.type("exit 5\n")
        assert talk.end() == 5
    assert not mbuild.machines()


def test_a_failed_step_is_entered(mbuild: Mbuild, busybox: str) -> None:
    context = mbuild.context(f"FROM {busybox} AS s\nRUN echo kept > /made\nRUN cat /made && exit 3\n")
    failed = mbuild("--progress=plain", context)
    assert f"look inside: mbuild debug s.2 {context}" in failed.stderr
    invoked = mbuild("--progress=plain", "--debug=on-error", "--invoke", "cat /made", context)
    assert (invoked.returncode, invoked.stdout) == (1, "kept\n")
    with at_terminal(mbuild, "--progress=plain", "--debug=on-error", context) as talk:
        talk.expect("a shell where s.2 was about to run")
        talk.type("cat /made; exit\n")
        talk.expect("kept")
        assert talk.end() == 1


def test_a_command_is_run_in_the_result(mbuild: Mbuild, context: object) -> None:
    done = mbuild("-q", "--invoke", "/bin/sh -c 'cat /made; exit 4'", context)
    assert (done.returncode, done.stdout) == (4, "two\n")


def test_run_takes_the_options_of_docker_run(mbuild: Mbuild, context: object) -> None:
    (mbuild.folder / "env").write_text("# a comment\nFROM_FILE=a b\nABSENT\n")
    words = ["--env-file", "env", "-e", "GREETING=bye", "-u", "5:6", "-w", "/tmp", "--hostname", "box", "--rm"]
    script = 'cat; echo "$FROM_FILE $GREETING $(id -u):$(id -g) $PWD $(hostname) $#"'
    done = mbuild("run", "-i", *words, "app", script, stdin="typed\n")
    assert done.stdout == "typed\na b bye 5:6 /tmp box 0\n", done.stderr
    assert mbuild.ok("run", "app").stdout == "two\n"
    assert mbuild.ok("run", "--entrypoint", "echo", "app", "x", "y").stdout == "x y\n"
    site = mbuild.folder / "site"
    (site / "sub").mkdir(parents=True)
    (site / "sub" / "page").write_text("shown\n")
    script = "cat /srv/site/sub/page; touch /srv/site/x || echo read-only"
    done = mbuild("run", "-v", f"{site}:/srv/site", "--entrypoint", "sh", "app", "-c", script)
    assert done.stdout == "shown\nread-only\n", done.stderr
    assert not (site / "x").exists()
    assert mbuild("run", "-it", "app", "x", stdin="").returncode == 2
    for wrong in (["-p", "80"], ["-p", "0:80"], ["--cpus", "x"], ["--memory", "1"], ["-p", "1:2", "--network", "none"]):
        assert mbuild("run", *wrong, "app").returncode == 2


def test_signals_go_to_the_command_and_the_second_ends_the_machine(mbuild: Mbuild, context: object) -> None:
    script = "trap 'echo caught' TERM INT; echo ready; while :; do sleep 0.1; done"
    running = subprocess.Popen(
        mbuild.argv("run", "app", script), env=mbuild.environ(), cwd=mbuild.folder, stdout=subprocess.PIPE
    )
    with running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == b"caught\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == b"caught\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    assert not mbuild.machines()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_nothing_is_left_of_a_session_whose_mbuild_is_killed(mbuild: Mbuild, context: object, number: int) -> None:
    with at_terminal(mbuild, "run", "-it", "app", "exec sleep 1000") as talk:
        assert wait_until(lambda: termios.tcgetattr(talk.theirs) != talk.before)
        assert mbuild.machines()
        talk.process.send_signal(number)
        assert talk.process.wait(30) == (-number if number == signal.SIGKILL else 128 + number)
        assert wait_until(lambda: not mbuild.machines(), 10)
    mbuild.ok("run", "app")
    assert not list((mbuild.store / "vm" / "run").iterdir())
