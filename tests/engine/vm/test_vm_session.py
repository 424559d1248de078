"""A command that somebody talks to: input, a terminal, signals, a port, a socket that leads here."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e_processes import wait_until
from vm_support import LayerBuilder, Runner

from engine.vm.execution import Ending, Identity
from engine.vm.portforward import PortForward
from engine.vm.session import Session, Size
from engine.vm.socketmount import SocketMount
from machinefile.errors import HostError

pytestmark = pytest.mark.vm


@dataclass
class Conversation:
    """A command in a microVM, in a thread, with a pipe to its input."""

    session: Session
    keyboard: int
    said: bytearray = field(default_factory=bytearray)
    ended: list[tuple[Ending, int]] = field(default_factory=list)

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def expect(self, text: str) -> None:
        """Wait until it has said that, and forget everything up to there."""
        assert wait_until(lambda: text.encode() in self.said), bytes(self.said)
        del self.said[: self.said.index(text.encode()) + len(text)]


@contextmanager
def conversation(
    run: Runner, command: object, size: list[Size] | None = None, **options: object
) -> Iterator[Conversation]:
    source, keyboard = os.pipe()
    session = Session(source, (lambda: size[0]) if size else None)
    talk = Conversation(session, keyboard)
    execution = run.execution(command, session=session, capture=False, **options)  # type: ignore[arg-type]
    cancelled = threading.Event()

    def hear(stream: int, data: bytes) -> None:
        talk.said += data

    def converse() -> None:
        with run.sandbox.execute(execution, hear, cancelled) as result:
            talk.ended.append((result.ending, result.code))

    thread = threading.Thread(target=converse)
    thread.start()
    try:
        yield talk
        if talk.keyboard >= 0:
            os.close(talk.keyboard)
            talk.keyboard = -1
        thread.join(60)
        assert not thread.is_alive(), bytes(talk.said)
    finally:
        cancelled.set()
        thread.join(60)
        os.close(source)
        if talk.keyboard >= 0:
            os.close(talk.keyboard)


def test_input_comes_through_whole_and_ends(run: Runner) -> None:
    sent = os.urandom(10 << 20)
    with conversation(run, "cat | sha256sum; echo over; cat") as talk:
        view = memoryview(sent)
        while view:
            view = view[os.write(talk.keyboard, view) :]
    assert talk.ended == [(Ending.EXITED, 0)]
    assert bytes(talk.said).split() == [hashlib.sha256(sent).hexdigest().encode(), b"-", b"over"]


def test_a_command_that_does_not_read_holds_up_who_writes(run: Runner) -> None:
    with conversation(run, "echo ready; read go < /tmp/go; echo done", files=()) as talk:
        talk.expect("ready")
        os.set_blocking(talk.keyboard, False)
        written = 0

        def is_full() -> bool:
            nonlocal written
            try:
                written += os.write(talk.keyboard, b"x" * 65536)
            except BlockingIOError:
                return False
            return False

        wait_until(is_full, 3)
        assert written < 1 << 20
        talk.session.signal(signal.SIGTERM)
    assert written < 1 << 20


def test_input_that_nobody_wants_is_thrown_away(run: Runner) -> None:
    with conversation(run, "exec 0<&-; echo closed; sleep 1; exit 5") as talk:
        talk.expect("closed")
        view = memoryview(b"x" * (2 << 20))
        while view:
            view = view[os.write(talk.keyboard, view) :]
    assert talk.ended == [(Ending.EXITED, 5)]


def test_a_terminal_is_a_terminal(run: Runner) -> None:
    size = [Size(31, 97)]
    with conversation(run, ("/bin/sh",), size, environment=(("PATH", "/bin"), ("PS1", "=> "))) as talk:
        talk.expect("=> ")
        talk.type("tty; stty size; [ -t 2 ] && echo err-is-one; echo x > /dev/tty; [ -c /dev/console ] && echo con\n")
        talk.expect("\r\n/dev/pts/0\r\n31 97\r\nerr-is-one\r\nx\r\ncon\r\n")
        size[0] = Size(50, 120)
        talk.type("while [ \"$(stty size)\" != '50 120' ]; do sleep 0.1; done; echo re''sized\n")
        talk.expect("resized")
        talk.type("sleep 1000\n")
        talk.expect("sleep 1000")
        talk.expect("\n")
        talk.type("\x03")
        talk.expect("=> ")
        talk.type("echo code $?; sleep 300 &\n")
        talk.expect("code 130")
        talk.type("jobs\n")
        talk.expect("Running")
        talk.type("exit 7\n")
    assert talk.ended == [(Ending.EXITED, 7)]


def test_the_end_of_the_input_ends_a_shell_at_its_terminal(run: Runner) -> None:
    with conversation(run, ("/bin/sh",), [Size(24, 80)], identity=Identity(1000, 1000)) as talk:
        talk.type("stat -c %u /dev/pts/0; exec 3<>/dev/tty && echo mi''ne\n")
        talk.expect("1000")
        talk.expect("mine")
    assert talk.ended == [(Ending.EXITED, 0)]


def test_the_last_words_at_a_terminal_are_not_lost(run: Runner) -> None:
    with conversation(run, "seq 20000; printf end", [Size(24, 80)]) as talk:
        pass
    assert bytes(talk.said) == b"".join(b"%d\r\n" % n for n in range(1, 20001)) + b"end"


def test_a_signal_reaches_the_command(run: Runner) -> None:
    with conversation(run, "trap 'echo usr; exit 9' USR1; echo ready; while :; do sleep 0.1; done") as talk:
        talk.expect("ready")
        talk.session.signal(signal.SIGUSR1)
    assert talk.ended == [(Ending.EXITED, 9)]


def test_a_command_that_does_not_handle_a_signal_ends_by_it(run: Runner) -> None:
    with conversation(run, "echo ready; exec sleep 1000") as talk:
        talk.expect("ready")
        talk.session.signal(signal.SIGTERM)
    assert talk.ended == [(Ending.SIGNALLED, 143)]


def test_a_port_of_this_machine_leads_into_the_guest(run: Runner) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = "echo hello > /tmp/f; httpd -f -p 8080 -h /tmp & sleep 0.3; echo ready; wait"
    forward = PortForward(8080, port)
    with conversation(run, script, ports=(forward,)) as talk:
        talk.expect("ready")
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            client.sendall(b"GET /f HTTP/1.0\r\n\r\n")
            answer = b""
            while data := client.recv(65536):
                answer += data
        assert answer.endswith(b"hello\n")
        with pytest.raises(HostError) as caught:
            forward.check_free()
        assert caught.value.code == "port-taken"
        talk.session.signal(signal.SIGTERM)
    assert talk.ended == [(Ending.SIGNALLED, 143)]


@contextmanager
def echo_server(path: Path) -> Iterator[list[bytes]]:
    """Answers, once the other side has ended, with what it was sent; keeps that."""
    heard: list[bytes] = []

    def answer(client: socket.socket) -> None:
        with client:
            got = b""
            while data := client.recv(65536):
                got += data
            heard.append(got)
            client.sendall(got.upper())

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


PERL = (("PATH", "/bin:/usr/bin"),)
CLIENT = b"""
socket(my $s, 1, 1, 0) or die "socket: $!"; connect($s, pack("S a*", 1, $ARGV[0])) or die "connect: $!";
$SIG{PIPE} = "IGNORE"; $| = 1; binmode STDIN; binmode STDOUT;
while (sysread(STDIN, my $d, 65536)) { my $at = 0; while ($at < length $d) {
    my $n = syswrite($s, $d, length($d) - $at, $at); exit 3 if !defined $n; $at += $n } }
shutdown($s, 1);
while (sysread($s, my $d, 65536)) { print $d }
"""


@pytest.fixture(scope="session")
def perl_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine's perl, which every Debian has, and a program for it that talks to a socket: busybox cannot."""
    listed = subprocess.run(["ldd", "/usr/bin/perl"], check=True, timeout=20, stdout=subprocess.PIPE).stdout.decode()
    libraries = [word for word in listed.split() if word.startswith("/")]
    builder = LayerBuilder()
    for path in ("/usr/bin/perl", *libraries):
        builder.add(path[1:], content=Path(path).read_bytes(), mode=0o755)
    builder.add("client.pl", content=CLIENT)
    return builder.write(tmp_path_factory.mktemp("perl") / "perl.sqfs")


def test_a_socket_of_the_guest_leads_to_one_of_this_machine(run: Runner, tmp_path: Path, perl_layer: Path) -> None:
    mount = SocketMount("/run/deep/agent.sock", str(tmp_path / "s"), 0o640, 7, 8)
    script = """
stat -c '%F %a %u:%g' /run/deep/agent.sock
head -c 3000000 /dev/zero | tr '\\0' a | perl /client.pl /run/deep/agent.sock | sha256sum
for i in 1 2 3 4 5 6 7 8; do (echo job $i | perl /client.pl /run/deep/agent.sock > /tmp/$i) & done
wait
cat /tmp/?
"""
    with echo_server(tmp_path / "s") as heard:
        ran = run(script, [perl_layer], environment=PERL, mounts=(mount,))
    assert ran.err == b""
    lines = ran.text.splitlines()
    assert lines[0] == "socket 640 7:8"
    assert lines[1].split()[0] == hashlib.sha256(b"A" * 3000000).hexdigest()
    assert lines[2:] == [f"JOB {n}" for n in range(1, 9)]
    assert len(heard) == 9
    assert "run" not in ran.changes


def test_a_socket_that_nobody_serves_is_closed_to_the_guest(run: Runner, tmp_path: Path, perl_layer: Path) -> None:
    ran = run(
        "echo x | perl /client.pl /s; echo over",
        [perl_layer],
        environment=PERL,
        mounts=(SocketMount("/s", str(tmp_path / "gone")),),
    )
    assert ran.text == "over\n"
