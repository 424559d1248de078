"""What a command in a microVM sees and how its end is told."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from vm_support import LayerBuilder, Runner

from engine.vm.execution import Ending, GuestFile, Identity
from engine.vm.sandbox import QemuSandbox
from machinefile.errors import HostError
from machinefile.steps import NetworkMode

pytestmark = pytest.mark.vm


def test_both_streams_and_the_exit_code_come_back(run: Runner) -> None:
    ran = run("echo out; echo err >&2; exit 7")
    assert (ran.ending, ran.code, ran.out, ran.err) == (Ending.EXITED, 7, b"out\n", b"err\n")
    assert not ran.changes


def test_a_signal_is_told_from_an_exit(run: Runner) -> None:
    # a process that is its namespace's first can only be killed from outside or by a fault of its own
    ran = run(["/bin/busybox", "sh", "-c", "(kill -9 $$) ; exec /bin/sh -c 'exit 3'"])
    assert (ran.ending, ran.code) == (Ending.EXITED, 3)
    ran = run("ulimit -t 1; while :; do :; done")
    assert (ran.ending, ran.code) == (Ending.SIGNALLED, 137)


def test_output_comes_while_the_command_runs_and_in_order(run: Runner) -> None:
    seen: list[tuple[float, bytes]] = []
    execution = run.execution("for i in 1 2 3 4; do echo $i; sleep 0.3; done")
    with run.sandbox.execute(execution, lambda _, data: seen.append((time.monotonic(), data)), threading.Event()):
        pass
    assert b"".join(data for _, data in seen) == b"1\n2\n3\n4\n"
    assert seen[-1][0] - seen[0][0] > 0.6


def test_much_output_comes_whole(run: Runner) -> None:
    ran = run("seq 1 100000; echo end >&2", capture=False)
    assert ran.out == b"".join(b"%d\n" % n for n in range(1, 100001))
    assert ran.err == b"end\n"


def test_the_environment_is_what_is_given_and_nothing_else(run: Runner) -> None:
    environment = (("PATH", "/bin"), ("A", "x y=z"), ("EMPTY", ""))
    assert run(["env"], environment=environment).out == b"PATH=/bin\nA=x y=z\nEMPTY=\n"


def test_a_missing_working_directory_is_made(run: Runner) -> None:
    ran = run("pwd", working_dir="/deep/er/down")
    assert ran.text == "/deep/er/down\n"
    assert ran.changes["deep/er/down"].kind == 2
    assert ran.changes["deep/er/down"].owner == (0, 0)


def test_a_command_runs_as_the_user_and_groups_asked_for(run: Runner) -> None:
    ran = run("id; echo via > /dev/stdout; echo x > /etc/passwd", identity=Identity(1000, 1001, (5, 6)))
    assert ran.text == "uid=1000 gid=1001 groups=5,6\nvia\n"
    assert ran.code == 1


def test_a_command_that_is_not_there_fails_as_in_a_shell(run: Runner) -> None:
    missing, denied = run(["/no/such"]), run(["/etc/passwd"])
    assert (missing.ending, missing.code) == (Ending.EXITED, 127)
    assert b"/no/such" in missing.err
    assert denied.code == 126


def test_a_command_finds_itself_alone_on_a_plain_system(run: Runner) -> None:
    script = (
        "echo $$; umask; ulimit -n; ulimit -Hn; hostname; grep CapBnd /proc/self/status;"
        "for f in null zero full random urandom tty pts shm fd stdin; do test -e /dev/$f || echo no $f; done;"
        "readlink /proc/self/fd/0; ls /proc | grep -c '^[0-9]'; touch /sys/x 2>&1; head -c 3 /dev/zero | wc -c"
    )
    lines = run(script, hostname="buildhost").text.splitlines()
    assert lines[:5] == ["1", "0022", "1024", "1048576", "buildhost"]
    assert lines[5].split() == ["CapBnd:", "00000000a80425fb"]
    # stdin is a link to the closed standard input, which is /dev/null
    assert lines[6:] == ["/dev/null", "3", "touch: /sys/x: Read-only file system", "3"]


def test_background_processes_die_with_the_step(run: Runner) -> None:
    started = time.monotonic()
    ran = run("(sleep 100; echo late) & (while :; do echo x >> /tmp/grows; done) & sleep 0.2; echo done")
    assert (ran.code, ran.text) == (0, "done\n")
    assert time.monotonic() - started < 20
    assert ran.changes["tmp/grows"].content


def test_hosts_and_resolver_are_seen_and_not_kept(run: Runner) -> None:
    ran = run("cat /etc/resolv.conf; grep -c localhost /etc/hosts; mount | grep -c /etc/")
    assert ran.text == "nameserver 10.0.2.3\n2\n2\n"
    assert "etc/hosts" not in ran.changes
    assert "etc" not in ran.changes, "a folder that was only copied up is no change"


def test_files_are_laid_over_the_image(run: Runner) -> None:
    files = (
        GuestFile("/run/deep/secret", b"hidden", 0o400),
        GuestFile("/etc/passwd", b"another\n"),
        GuestFile("/etc/hosts", b"mine\n"),
    )
    ran = run("cat /run/deep/secret /etc/passwd /etc/hosts; ls -l /run/deep/secret | cut -c1-10", files=files)
    assert ran.text == "hiddenanother\nmine\n-r--------\n"
    assert set(ran.changes) == {"", "proc", "sys", "dev"}


def test_a_resolver_that_is_a_link_is_followed_inside_the_root(run: Runner, tmp_path: Path) -> None:
    import tarfile

    layer = LayerBuilder().folder("etc")
    layer.add("etc/resolv.conf", tarfile.SYMTYPE, link="../../run/systemd/stub.conf")
    ran = run("cat /run/systemd/stub.conf; readlink /etc/resolv.conf", [layer.write(tmp_path / "l.sqfs")])
    assert ran.text == "nameserver 10.0.2.3\n../../run/systemd/stub.conf\n"
    assert "run" not in ran.changes


def test_the_clock_is_right_and_two_machines_differ_in_what_is_random(run: Runner) -> None:
    first, second = (
        run("date +%s; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/uuid") for _ in range(2)
    )
    assert abs(int(first.text.split()[0]) - time.time()) < 10
    assert first.text.splitlines()[1:] != second.text.splitlines()[1:]
    assert first.text.splitlines()[1] != second.text.splitlines()[1]


def test_the_clock_runs_at_the_right_rate(run: Runner) -> None:
    seen: list[float] = []
    execution = run.execution("echo a; sleep 2; echo b", capture=False)
    with run.sandbox.execute(execution, lambda *_: seen.append(time.monotonic()), threading.Event()):
        pass
    assert 1.8 < seen[-1] - seen[0] < 3


@pytest.fixture
def greeter() -> int:
    """The port of a server on this host's loopback that greets."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(20)

    def serve() -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"hello from the host\n")

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]  # type: ignore[misc]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_the_hosts_loopback_is_there_where_it_is_opened(run: Runner, greeter: int) -> None:
    ran = run(f"nc host {greeter} < /dev/null", hosts=(("host", "host-gateway"),))
    assert ran.text == "hello from the host\n"


def test_without_a_network_there_is_only_loopback(run: Runner, greeter: int) -> None:
    ran = run(
        f"ls /proc/sys/net/ipv4/conf; ping -c1 -W1 127.0.0.1 > /dev/null && echo lo; nc -w 3 10.0.2.2 {greeter}",
        network=NetworkMode.NONE,
    )
    assert ran.text.split() == ["all", "default", "lo", "lo"]
    assert ran.code != 0


def test_the_hosts_network_is_refused_unless_allowed(run: Runner) -> None:
    with pytest.raises(HostError) as caught:
        run("true", network=NetworkMode.HOST)
    assert caught.value.code == "network-host-refused"


def test_starts_are_counted(sandbox: QemuSandbox, run: Runner) -> None:
    before = sandbox.starts
    run("true")
    assert sandbox.starts == before + 1


def test_set_id_programs_work_in_a_step(run: Runner) -> None:
    ran = run("grep NoNewPrivs /proc/self/status")
    assert ran.text.split() == ["NoNewPrivs:", "0"]
