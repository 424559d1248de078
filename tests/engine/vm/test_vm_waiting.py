"""The process that waits in a template for its step: it is to be like one that is started for the step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from vm_support import Runner

from engine.vm import guest
from engine.vm.execution import Execution, Identity
from engine.vm.protocol import Command
from engine.vm.session import Session
from machinefile.steps import NetworkMode

LOOK = """
cut -d' ' -f4- /proc/self/mountinfo | sort
grep -E '^(Umask|NStgid|NSpid|NSpgid|NSsid|Uid|Gid|Groups|Sig|Cap|NoNewPrivs|Seccomp|Speculation)' /proc/1/status
cat /proc/1/limits /proc/1/oom_score_adj /proc/1/cgroup /proc/1/loginuid
for name in root cwd exe fd/0; do readlink /proc/1/$name; done
ls /proc/1/fd
stat -L -c '%u:%g %a' /proc/self/fd/1 /proc/self/fd/2 / /proc /sys /dev
ls /proc | grep -v '^[0-9]' | sort; ls /proc/sys /proc/bus /proc/acpi /sys/firmware /sys/fs/cgroup 2>&1
touch /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/fs/cgroup/x /sys/x 2>&1
head -c 1 /proc/kcore | wc -c
ps -o pid,ppid,pgid,sid,tty,comm; id; env; hostname; ipcs -m; cat /proc/sys/kernel/shmmax
"""
EXECUTION = Execution((), ("true",), ())


def waits(command: Command) -> bool:
    """Whether a SPAWN is for the process that waits."""
    return command.values[1] == guest._WAITING


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"network": NetworkMode.HOST}, True),
        ({"network": NetworkMode.NONE}, False),
        ({"privileged": True}, False),
        ({"session": Session()}, False),
    ],
    ids=["plain", "host's network", "no network", "privileged", "session"],
)
def test_the_process_that_waits_is_for_what_it_has_the_namespaces_and_streams_of(
    change: dict[str, object], expected: bool
) -> None:
    assert waits(guest.spawn(replace(EXECUTION, **change))) is expected


@pytest.mark.vm
@pytest.mark.parametrize("identity", [Identity(), Identity(1000, 1001, (5, 6))], ids=["root", "user"])
def test_a_process_that_waited_is_like_one_that_was_started_for_its_step(run: Runner, identity: Identity) -> None:
    assert not waits(guest.spawn(run.execution(LOOK, session=Session())))
    waited = run(LOOK, identity=identity, working_dir="/deep/er")
    started = run(LOOK, identity=identity, working_dir="/deep/er", session=Session())
    assert "overlay" in waited.text
    assert waited.text.splitlines() == started.text.splitlines()
    assert (waited.code, waited.err, waited.changes.keys()) == (started.code, started.err, started.changes.keys())


@pytest.mark.vm
def test_what_a_process_that_waited_is_given_may_be_long(run: Runner) -> None:
    environment = (("PATH", "/bin"), *((f"NAME{number}", "x" * 1000) for number in range(200)))
    expected = "".join(f"{name}={value}\n" for name, value in environment)
    assert run(["env"], environment=environment).text == expected


@pytest.mark.vm
def test_a_process_that_waited_and_cannot_be_what_it_is_to_be_says_so(run: Runner) -> None:
    missing = run(["/no/such"])
    assert (missing.code, missing.err) == (127, b"exec /no/such: No such file or directory\n")
