"""What a RUN's process sees, in one table: what BuildKit gives it, checked in mbuild and, where that one agrees with
BuildKit, in `buildah bud --isolation chroot`, which makes no namespaces of its own for processes, users and the network
and leaves most of /proc, /sys and /dev as the host has them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))

from e2e_bases import write_busybox_layout
from vm_support import template_folder

pytestmark = pytest.mark.vm
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    """A shell command and what it prints."""

    name: str
    command: str
    printed: str
    apart: str = ""
    """Why buildah is not compared; empty where it is."""


HOST = "chroot isolation shows the host's"
TABLE = (
    Row("umask", "umask", "0022"),
    Row("standard input is empty", "cat; echo $?", "0"),
    Row("no terminal", "test -t 0 || test -t 1 || test -t 2 || echo none", "none"),
    Row("no controlling terminal", "(: < /dev/tty) 2>/dev/null || echo none", "none"),
    Row("user", "id -u; id -g", "0 0"),
    Row("home", "echo $HOME", "/root"),
    Row("path", "echo $PATH", "/bin"),
    Row("shell level and user name are not set", "echo ${USER-unset} ${LOGNAME-unset}", "unset unset"),
    Row("working directory", "pwd; stat -c %a:%u:%g .", "/made/here 755:0:0"),
    Row("environment", "echo $ONE:$TWO", "1:two words"),
    Row("null", "echo x > /dev/null; stat -c %F /dev/null", "character special file"),
    Row("zero", "head -c 3 /dev/zero | wc -c", "3"),
    Row(
        "descriptors",
        "for f in fd stdin stdout; do readlink /dev/$f; done",
        "/proc/self/fd /proc/self/fd/0 /proc/self/fd/1",
    ),
    Row("a folder in memory for all", "test -w /dev/shm && echo yes", "yes"),
    Row("temporary files", "stat -c %a /tmp", "1777"),
    Row("root", "stat -c %a:%u:%g /", "755:0:0", "it makes the root of its own container 555"),
    Row("open descriptors", "ls /proc/self/fd | wc -l", "4", "buildah hands down one more"),
    Row("first process", "echo $$", "1", "it has no process namespace"),
    Row("ulimits", "ulimit -n; ulimit -Hn", "1024 1048576", HOST),
    Row("capabilities", "grep CapBnd /proc/self/status | cut -f2", "00000000a80425fb", "it drops others"),
    Row("effective capabilities", "grep CapEff /proc/self/status | cut -f2", "00000000a80425fb", "it drops others"),
    Row("ambient capabilities", "grep CapAmb /proc/self/status | cut -f2", "0000000000000000"),
    Row("new privileges", "grep NoNewPrivs /proc/self/status | cut -f2", "0", HOST),
    Row("/dev/shm", "grep ' /dev/shm ' /proc/mounts | cut -d' ' -f3", "tmpfs", HOST),
    Row("/dev/shm's size", "df -k /dev/shm | tail -1 | awk '{print $2}'", "65536", HOST),
    Row("/sys is read-only", "(: > /sys/x) 2>&1 | grep -c Read-only", "1", HOST),
    Row("/proc/sys is read-only", "(: > /proc/sys/kernel/hostname) 2>&1 | grep -c Read-only", "1", HOST),
    Row("/proc/sysrq-trigger", "(: > /proc/sysrq-trigger) 2>&1 | grep -c Read-only", "1", HOST),
    Row("/proc/kcore", "head -c 1 /proc/kcore | wc -c", "0", HOST),
    Row("/proc/keys", "wc -c < /proc/keys", "0", HOST),
    Row("/proc/timer_list", "wc -c < /proc/timer_list", "0", HOST),
    Row("/proc/scsi", "ls /proc/scsi 2>/dev/null | wc -l", "0", HOST),
    Row("/sys/firmware", "ls /sys/firmware | wc -l", "0", HOST),
    Row("cgroups", "grep -c ' /sys/fs/cgroup cgroup2 ro,' /proc/mounts", "1", HOST),
    Row("no module is loaded", "(: > /proc/sys/kernel/modprobe) 2>&1 | grep -c Read-only", "1", HOST),
    Row(
        "mounting is refused",
        "mount -t tmpfs x /mnt 2>/dev/null || echo refused",
        "refused",
        "it has more capabilities",
    ),
)


def _answers(log: str) -> dict[int, str]:
    found = {}
    for line in log.splitlines():
        _, marked, rest = line.partition("row ")
        number, colon, answer = rest.partition(":")
        if marked and colon and number.isdigit() and '"' not in line and "$r" not in line:
            found[int(number)] = answer.strip()
    return found


def _said(answers: dict[int, str], rows: tuple[Row, ...]) -> dict[str, str]:
    return {row.name: answers.get(number, "nothing") for number, row in enumerate(rows)}


def _wanted(rows: tuple[Row, ...]) -> dict[str, str]:
    return {row.name: row.printed for row in rows}


def _merged(rows: tuple[Row, ...]) -> str:
    """All rows in one RUN, so that one microVM does."""
    body = "; ".join(f"r=$( {row.command} ); echo row {number}: $r" for number, row in enumerate(rows))
    return f'ENV ONE=1 TWO="two words" PATH=/bin HOME=/root\nWORKDIR /made/here\nRUN {body}\n'


def test_what_a_process_sees_in_mbuild(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write_busybox_layout(tmp_path / "layout")
    store = tmp_path / "store"
    store.mkdir()
    (store / "vm").symlink_to(template_folder(tmp_path_factory))
    (tmp_path / "Machinefile").write_text(f"FROM oci-layout:{tmp_path}/layout:latest\n{_merged(TABLE)}")
    argv = [sys.executable, "-m", "mbuild", "--progress=plain", "--cache-dir", str(store), str(tmp_path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert done.returncode == 0, done.stderr
    assert _said(_answers(done.stderr), TABLE) == _wanted(TABLE)


@pytest.mark.skipif(os.geteuid() != 0, reason="buildah's chroot isolation needs root here")
def test_what_a_process_sees_in_buildah(tmp_path: Path) -> None:
    rows = tuple(row for row in TABLE if not row.apart)
    write_busybox_layout(tmp_path / "layout")
    (tmp_path / "Containerfile").write_text(f"FROM oci:{tmp_path}/layout:latest\n{_merged(rows)}")
    storage = ["--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    argv = ["buildah", *storage, "bud", "--isolation", "chroot", "--signature-policy", str(tmp_path / "policy.json")]
    done = subprocess.run([*argv, str(tmp_path)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    assert done.returncode == 0, done.stderr
    assert _said(_answers(done.stdout), rows) == _wanted(rows)
