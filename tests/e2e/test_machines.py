"""Machines: made by a build, run again as copies that differ, moved, and booted cold where they do not fit."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild, Registry

pytestmark = pytest.mark.vm

WHO = r"""#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
hostname
cat /sys/class/net/eth0/address /etc/machine-id
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' '
date +%s
grep -c "$(hostname)" /etc/hosts
"""
SERVE = r"""#!/bin/sh
trap 'echo terminated; exit 9' TERM
echo starting
httpd -f -p 8080 -h /www &
until [ -f /quit ]; do sleep 0.1; done
echo quitting
exit 7
"""
QUIT = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\ntouch /quit\n"
TEXT = """\
FROM {base}
MACHINE cpus=1 memory=256M disk=256M
COPY --chmod=755 who quit /www/cgi-bin/
COPY --chmod=755 serve /serve
RUN echo 0123456789abcdef0123456789abcdef > /etc/machine-id && echo hello > /www/index.html
EXPOSE 8080
CMD ["/serve"]
"""


def context(mbuild: Mbuild, busybox: str, end: str) -> Path:
    text = TEXT.format(base=busybox) + end + "\n"
    return mbuild.context(text, who=WHO, quit=QUIT, serve=SERVE)


@dataclass(frozen=True)
class Made:
    mbuild: Mbuild
    folder: Path


@pytest.fixture(scope="module")
def shelf() -> dict[str, Made]:
    """Where the machine stands that all tests share, once the first has made it."""
    return {}


@pytest.fixture
def made(
    shelf: dict[str, Made], tmp_path_factory: pytest.TempPathFactory, mbuild: Mbuild, templates: Path, busybox: str
) -> Made:
    """A store with the machine `web`, and the machine in a folder."""
    if not shelf:
        folder = tmp_path_factory.mktemp("machines")
        own = replace(mbuild, folder=folder, store=folder / "store")
        own.store.mkdir()
        (own.store / "vm").symlink_to(templates)
        done = own.ok(
            *("--progress=plain", "-t", "web", "-o", f"type=machine,dest={folder / 'machine'}"),
            context(own, busybox, "SNAPSHOT --ready=tcp:8080"),
        )
        assert "starting" in done.stderr, "the program's output is the step's"
        shelf["web"] = Made(own, folder / "machine")
    return shelf["web"]


@dataclass
class Copy:
    process: subprocess.Popen[str]
    port: int
    said: list[str] = field(default_factory=list)

    def get(self, path: str) -> str:
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=20) as answer:
                    return str(answer.read().decode())
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert self.process.poll() is None, self.process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)


@contextmanager
def running(mbuild: Mbuild, name: object, *arguments: str) -> Iterator[Copy]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = mbuild.argv("run", "-p", f"{port}:8080", *arguments, name)
    process = subprocess.Popen(
        argv,
        env=mbuild.environ(),
        cwd=mbuild.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Copy(process, port)
    finally:
        process.kill()
        process.communicate(timeout=30)


def test_copies_of_a_machine_differ_where_they_must(made: Made) -> None:
    with running(made.mbuild, "web") as one, running(made.mbuild, "./machine", "--hostname", "chosen") as two:
        said = [copy.get("cgi-bin/who").split() for copy in (one, two)]
    for names in zip(said[0][:4], said[1][:4], strict=True):
        assert names[0] != names[1]
    assert said[1][0] == "chosen"
    for name, mac, machine_id, random, clock, in_hosts in said:
        assert int(mac[:2], 16) & 3 == 2, "an address of one station, administered locally"
        assert re.fullmatch("[0-9a-f]{32}", machine_id)
        assert machine_id != "0123456789abcdef0123456789abcdef"
        assert len(random) == 32
        assert abs(int(clock) - time.time()) < 60
        assert in_hosts == "1", name


def test_the_program_goes_on_and_its_exit_code_is_that_of_run(made: Made) -> None:
    with running(made.mbuild, "web") as copy:
        assert copy.get("index.html") == "hello\n"
        copy.get("cgi-bin/quit")
        out, err = copy.process.communicate(timeout=60)
    assert (copy.process.returncode, out) == (7, "quitting\n"), err
    with running(made.mbuild, "web") as again:
        assert again.get("index.html") == "hello\n", "what one copy wrote, the next does not see"


def test_an_interrupt_ends_a_copy_and_leaves_nothing(made: Made) -> None:
    with running(made.mbuild, "web") as copy:
        copy.get("index.html")
        assert made.mbuild.machines()
        copy.process.send_signal(signal.SIGINT)
        copy.process.communicate(timeout=30)
    assert copy.process.returncode == 130
    assert not made.mbuild.machines()


def test_it_is_made_once_and_described(made: Made, busybox: str) -> None:
    done = made.mbuild.ok("--progress=plain", "-t", "web", context(made.mbuild, busybox, "SNAPSHOT --ready=tcp:8080"))
    assert re.search(r"SNAPSHOT --ready=tcp:8080\n#\d+ CACHED", done.stderr)
    manifest = json.loads(made.mbuild.ok("inspect", "--machine", "web").stdout)
    assert manifest["ready"] == "tcp:8080"
    assert manifest["ports"] == ["8080/tcp"]
    assert {part["name"] for part in manifest["parts"]} == set(os.listdir(made.folder)) - {"machine.json"}
    listed = made.mbuild.ok("images").stdout
    assert re.search(r"web:latest .* machine$", listed, re.MULTILINE)


def test_a_machine_for_another_qemu_is_booted_cold_from_its_disk(made: Made, tmp_path: Path) -> None:
    for field_, value, words in (("qemu", "1.2.3", "QEMU 1.2.3"), ("cpu", "Other", "the processor Other")):
        other = tmp_path / field_
        other.mkdir()
        for path in made.folder.iterdir():
            os.link(path, other / path.name)
        manifest = json.loads((made.folder / "machine.json").read_text())
        manifest["situation"][field_] = value
        (other / "machine.json").unlink()
        (other / "machine.json").write_text(json.dumps(manifest))
        done = made.mbuild("run", other, "sh", "-c", "cat /www/index.html; exit 3")
        assert (done.returncode, done.stdout) == (3, "hello\n")
        assert words in done.stderr
        assert "booting it cold" in done.stderr


def test_a_foreign_machine_and_a_damaged_one_are_refused(made: Made, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in made.folder.iterdir():
        if path.name not in ("machine.json", "state"):
            os.link(path, other / path.name)
    text = (made.folder / "machine.json").read_text()
    (other / "machine.json").write_text(text.replace('"amd64"', '"s390x"'))
    state = (made.folder / "state").read_bytes()
    (other / "state").write_bytes(state)
    done = made.mbuild("run", other)
    assert done.returncode != 0
    assert "s390x" in done.stderr
    (other / "machine.json").write_text(text)
    (other / "state").write_bytes(b"\1" + state[1:])
    done = made.mbuild("run", other)
    assert done.returncode != 0
    assert "state is not what its digest says" in done.stderr


@pytest.mark.registry
def test_a_machine_goes_through_a_registry(made: Made, mbuild: Mbuild, registry: Registry) -> None:
    name, there, store = f"{registry.address}/machines/web:one", mbuild, mbuild.store
    made.mbuild.ok("push", "--machine", "web", name)
    there.ok("pull", name)
    assert re.search(r"web:one .* machine$", there.ok("images").stdout, re.MULTILINE)
    with running(there, name) as copy:
        assert copy.get("index.html") == "hello\n"
    digest = there.ok("push", "-q", name, f"{registry.address}/machines/web:two").stdout
    assert digest == made.mbuild.ok("push", "-q", made.folder, name).stdout, "equal parts are packed equally"
    assert list((store / "machines").iterdir())
    there.ok("rmi", name)
    assert not [path for path in (store / "machines").iterdir() if path.name != "checked"]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ('CMD ["sh", "-c", "echo oh no; exit 5"]\nSNAPSHOT --ready=tcp:80', ("with exit code 5", "oh no")),
        ('CMD ["sh", "-c", "echo waits; sleep 60"]\nSNAPSHOT --ready=tcp:80 --timeout=1s', ("within 1 s", "waits")),
        (
            'CMD ["sleep", "60"]\nSNAPSHOT --ready="exec:echo nope; false" --timeout=1s',
            ("ended with exit code 1: nope",),
        ),
        ('CMD ["sleep", "60"]\nSNAPSHOT --ready=healthcheck', ("health check, and it has none",)),
        ("CMD []\nSNAPSHOT", ("no ENTRYPOINT and no CMD",)),
    ],
)
def test_a_program_that_does_not_get_ready_is_an_error_that_says_why(
    made: Made, busybox: str, end: str, words: tuple[str, ...]
) -> None:
    done = made.mbuild("--progress=plain", context(made.mbuild, busybox, end))
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr
    assert not made.mbuild.machines()


def test_a_health_check_says_when_it_is_ready(made: Made, busybox: str) -> None:
    end = (
        "HEALTHCHECK CMD wget -qO /dev/null http://127.0.0.1:8080/ && ps | grep -q serve\nSNAPSHOT --ready=healthcheck"
    )
    made.mbuild.ok("-t", "healthy", context(made.mbuild, busybox, end))
    with running(made.mbuild, "healthy") as copy:
        assert copy.get("index.html") == "hello\n"


def test_a_death_while_one_is_made_leaves_nothing_that_the_next_run_does_not_clean(made: Made, busybox: str) -> None:
    end = 'CMD ["sleep", "600"]\nSNAPSHOT --ready=tcp:80 --timeout=300s'
    argv = made.mbuild.argv("--progress=plain", context(made.mbuild, busybox, end))
    process = subprocess.Popen(argv, env=made.mbuild.environ(), stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stderr is not None
    for line in process.stderr:
        if b"SNAPSHOT" in line:
            break
    deadline = time.monotonic() + 60
    while not made.mbuild.machines():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=30)
    while made.mbuild.machines():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = sorted((made.mbuild.store / "machines").iterdir())
    with running(made.mbuild, "web") as copy:
        assert copy.get("index.html") == "hello\n"
        copy.get("cgi-bin/quit")
        copy.process.communicate(timeout=60)
    assert sorted((made.mbuild.store / "machines").iterdir()) == kept
    assert not made.mbuild.left_over()
    run = made.mbuild.store / "vm" / "run"
    assert not list(run.iterdir())


def test_nothing_but_a_machine_is_overwritten(made: Made, busybox: str, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("mine")
    done = made.mbuild("-o", f"type=machine,dest={taken}", context(made.mbuild, busybox, "SNAPSHOT"))
    assert done.returncode != 0
    assert "holds no machine" in done.stderr
    assert os.listdir(taken) == ["file"]
