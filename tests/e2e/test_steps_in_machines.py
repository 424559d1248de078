"""RUN through the whole of mbuild: what a step sees, what it leaves, how it fails, and that it can be stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_processes import interrupt, wait_until
from trace_support import read_trace

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = pytest.mark.vm


def test_what_a_step_changes_is_what_the_image_has(mbuild: Mbuild, busybox: str) -> None:
    text = f"""\
FROM {busybox}
RUN mkdir -p /d/sub && echo 1 > /d/one && echo 2 > /d/sub/two && ln /d/one /d/hard && ln -s one /d/soft
RUN rm /d/one && rm -r /d/sub && mkdir /d/sub && echo 3 > /d/sub/three
RUN chmod 4755 /d/hard && chown 1000:1001 /d/sub && mknod /d/null c 1 3 && mkfifo /d/pipe
USER ada
WORKDIR /home/ada/work
RUN id -u > who && pwd >> who && echo "$HOME" >> who
"""
    trace = mbuild.folder / "trace"
    mbuild.build("-t", "changes", "--profile", trace, mbuild.context(text))
    check_spans_of_runs(trace, 4)
    script = "cd /d; ls -1; stat -c '%a %u:%g %F' hard sub null pipe; cat sub/three; cat /home/ada/work/who"
    assert mbuild.ok("run", "changes", "/bin/sh", "-c", script).stdout.splitlines() == [
        "hard",
        "null",
        "pipe",
        "soft",
        "sub",
        "4755 0:0 regular file",
        "755 1000:1001 directory",
        "644 0:0 character special file",
        "644 0:0 fifo",
        "3",
        "1000",
        "/home/ada/work",
        "/home/ada",
    ]


def check_spans_of_runs(trace: Path, count: int) -> None:
    """Each RUN says what its time went into: the machine's part in that order."""
    events, names = read_trace(trace)
    runs = [event for event in events if event.category == "step" and "] RUN " in event.name]
    assert len(runs) == count
    for one in runs:
        inside = [event for event in events if one.holds(event)]
        parts = [event.name for event in inside if event.name in ("room", "restore", "attach", "run", "diff", "stop")]
        assert parts == ["room", "restore", "attach", "run", "diff", "stop"]
        assert {event.name for event in inside} >= {"disks", "template", "take", "keep"}
        (command,) = (event for event in inside if event.name == "run")
        assert command.args == {"ending": "exited", "code": 0}
    ahead = {names[event.row] for event in events if event.name == "restore ahead"}
    assert ahead == {"ahead"}


def test_two_stores_come_to_the_same_image(mbuild: Mbuild, busybox: str) -> None:
    text = f"FROM {busybox}\nRUN for i in 3 1 2; do echo $i > /f$i; done; mkdir /d\nCOPY Machinefile /m\n"
    context = mbuild.context(text)
    first = mbuild.build(context)
    other = mbuild.store.with_name("other")
    other.mkdir()
    (other / "vm").symlink_to(mbuild.store / "vm")
    assert mbuild.build("--cache-dir", other, context)["image.digest"] == first["image.digest"]
    assert mbuild.build("--no-cache", context)["image.digest"] == first["image.digest"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 7", "exit code 7"),
        ("sh -c 'kill -9 $$'; exit $?", "exit code 137"),
        ("no-such-program", "127"),
        ("dd if=/dev/zero of=/big bs=1M", "disk"),
    ],
)
def test_a_step_that_fails_says_how_and_where(mbuild: Mbuild, busybox: str, command: str, words: str) -> None:
    text = f"FROM {busybox}\nMACHINE disk=300M\nRUN echo kept > /kept\nRUN echo said; {command}\n"
    done = mbuild("--progress=plain", mbuild.context(text))
    assert done.returncode == 1, done.stderr
    assert words in done.stderr
    assert "Machinefile:4:1" in done.stderr
    assert re.search(r"^#\d+ [\d.]+ said$", done.stderr, re.MULTILINE)
    assert mbuild.left_over() == []
    assert mbuild.machines() == []
    again = mbuild.build(mbuild.context(text.replace(command, "true")))
    assert again["steps"]["run"] == 1, "what was done before is still there"  # type: ignore[index]


def test_run_gives_back_the_exit_code_and_both_streams(mbuild: Mbuild, busybox: str) -> None:
    mbuild.build("-t", "base", mbuild.context(f"FROM {busybox}\n"))
    done = mbuild("run", "base", "/bin/sh", "-c", "echo out; echo err >&2; exit 5")
    assert (done.returncode, done.stdout) == (5, "out\n")
    assert done.stderr.endswith("err\n")


@contextmanager
def started(mbuild: Mbuild, text: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A build that has come to the point where its last step said `ready`; its log."""
    log = mbuild.folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            mbuild.argv("--progress=plain", mbuild.context(text)),
            env=mbuild.environ(),
            cwd=mbuild.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        assert wait_until(lambda: b" ready\n" in log.read_bytes() or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text()
        assert mbuild.machines()
        yield process, log
    finally:
        process.kill()
        process.wait(60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_interrupted_leaves_nothing_running(mbuild: Mbuild, busybox: str, number: int) -> None:
    text = f"FROM {busybox}\nRUN echo kept > /kept\nRUN echo ready; sleep 1000\nRUN echo next\n"
    with started(mbuild, text) as (process, log):
        assert wait_until(lambda: len(mbuild.machines()) == 2), "the next one's waits"
        folders = [Path(f"/proc/{pid}/cwd").readlink() for pid in mbuild.machines()]
        assert interrupt(process, number) == 130
        assert "Traceback" not in log.read_text()
    assert mbuild.machines() == []
    assert not any(folder.exists() for folder in folders)
    assert mbuild.left_over() == []
    assert mbuild.build(mbuild.context(text.replace("sleep 1000", "true")))["steps"]["run"] == 2  # type: ignore[index]


def test_a_build_that_is_killed_takes_its_machine_along_and_the_next_one_cleans_up(
    mbuild: Mbuild, busybox: str
) -> None:
    with started(mbuild, f"FROM {busybox}\nRUN echo ready; sleep 1000\nRUN echo next\n") as (process, _):
        assert wait_until(lambda: len(mbuild.machines()) == 2), "the next one's waits"
        folders = [Path(f"/proc/{pid}/cwd").readlink() for pid in mbuild.machines()]
        assert interrupt(process, signal.SIGKILL) == -signal.SIGKILL
    assert wait_until(lambda: mbuild.machines() == [])
    assert mbuild.build(mbuild.context(f"FROM {busybox}\nRUN true\n"))["steps"]["run"] == 1  # type: ignore[index]
    assert not any(folder.exists() for folder in folders)
    assert mbuild.left_over() == []


def test_an_ordinary_user_without_any_privilege_builds_and_runs(
    mbuild: Mbuild, busybox: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if os.getuid() == 0:
        home = tmp_path_factory.mktemp("nobody")
        shutil.copytree(Path(busybox.removeprefix("oci-layout:").rpartition(":")[0]), home / "base")
        busybox = f"oci-layout:{home / 'base'}:latest"
        mbuild.folder, mbuild.store = home, home / "store"
        mbuild.prefix = (sys.executable, str(Path(__file__).parents[1] / "e2e_unprivileged.py"))
    else:
        mbuild.prefix = ("setpriv", "--no-new-privs")
    context = mbuild.context(
        f"FROM {busybox}\nRUN id -u > /who && mknod /null c 1 3 && chown 1:1 /who\nCOPY f /f\n", f="x"
    )
    if os.getuid() == 0:
        for path in (mbuild.folder, *mbuild.folder.rglob("*")):
            os.chown(path, 65534, 65534)
        for folder in (mbuild.folder, *mbuild.folder.parents):
            if folder.stat().st_uid in (0, 65534) and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o055)
    status = subprocess.run([*mbuild.prefix, "cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    assert "NoNewPrivs:\t1" in status.stdout
    if os.getuid() == 0:
        assert re.search(r"^CapEff:\t0+$", status.stdout, re.MULTILINE)
        assert re.search(r"^CapBnd:\t0+$", status.stdout, re.MULTILINE)
        assert subprocess.run([*mbuild.prefix, "unshare", "--user", "true"], capture_output=True).returncode != 0
    built = mbuild.build("-t", "mine", "-o", f"type=oci,dest={mbuild.folder / 'out'}", context)
    assert built["vm.restores"] == 1
    ran = mbuild.ok("run", "mine", "stat", "-c", "%n %u %F", "/who", "/null", "/f")
    assert ran.stdout.splitlines() == [
        "/who 1 regular file",
        "/null 0 character special file",
        "/f 0 regular file",
    ]
