"""ADD of URLs and repositories by the command itself, from servers on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from local_server import FolderServer

if TYPE_CHECKING:
    from conftest import Mbuild


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FolderServer]:
    folder = tmp_path / "site"
    folder.mkdir()
    with FolderServer(folder) as running:
        yield running


def files(mbuild: Mbuild, layout: Path) -> dict[str, bytes]:
    """What the image in a layout holds, as umoci unpacks it."""
    bundle = mbuild.folder / f"bundle-{time.monotonic_ns()}"
    argv = ["umoci", "unpack", "--rootless", "--image", f"{layout}:latest", str(bundle)]
    subprocess.run(argv, check=True, timeout=120, capture_output=True)
    root = bundle / "rootfs"
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    shutil.rmtree(bundle)
    return found


def test_a_file_is_fetched_once_and_asked_for_afterwards(mbuild: Mbuild, site: FolderServer) -> None:
    (site.folder / "tool").write_text("first")
    context = mbuild.context(f"FROM scratch\nADD --chmod=755 {site.url}/tool /bin/\n")
    layout = mbuild.folder / "layout"
    first = mbuild.build("-o", f"type=oci,dest={layout}", context)
    assert first["steps"] == {"hit": 0, "run": 1, "total": 1}
    assert files(mbuild, layout) == {"bin/tool": b"first"}
    again = mbuild.build(context)
    assert again["steps"] == {"hit": 1, "run": 0, "total": 1}
    assert again["image.digest"] == first["image.digest"]
    assert site.log == [("/tool", "200"), ("/tool", "304")]
    (site.folder / "tool").write_text("second")
    os.utime(site.folder / "tool", (time.time() + 60,) * 2)
    plan = json.loads(mbuild.ok("plan", "--format", "json", context).stdout)
    assert [step["hit"] for step in plan["steps"]] == [True, False]
    changed = mbuild.build("-o", f"type=oci,dest={layout}2", context)
    assert changed["image.digest"] != first["image.digest"]
    assert files(mbuild, Path(f"{layout}2")) == {"bin/tool": b"second"}
    assert mbuild.left_over() == []


def test_a_checksum_saves_every_question_and_stops_what_is_not_it(mbuild: Mbuild, site: FolderServer) -> None:
    (site.folder / "tool").write_text("right")
    checksum = hashlib.sha256(b"right").hexdigest()
    context = mbuild.context(f"FROM scratch\nADD --checksum=sha256:{checksum} {site.url}/tool /tool\n")
    mbuild.build(context)
    mbuild.build(context)
    assert len(site.log) == 1
    (site.folder / "tool").write_text("wrong")
    wrong = mbuild.context(f"FROM scratch\nADD --checksum=sha256:{'0' * 64} {site.url}/tool /tool\n", "wrong")
    done = mbuild(wrong)
    assert done.returncode == 4
    assert "Machinefile:2" in done.stderr
    assert hashlib.sha256(b"wrong").hexdigest() in done.stderr
    assert mbuild.left_over() == []


def test_a_repository_is_added_at_a_tag(mbuild: Mbuild, site: FolderServer) -> None:
    work = mbuild.folder / "work"
    work.mkdir()
    bare = site.folder / "project.git"

    def git(*words: str) -> str:
        who = dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "ada@example.org")
        who |= dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "Ada")
        environ = {"PATH": os.environ["PATH"], "HOME": str(work), "GIT_CONFIG_NOSYSTEM": "1", **who}
        return subprocess.run(["git", *words], cwd=work, env=environ, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet", "-b", "main", ".")
    (work / "src").mkdir()
    (work / "src" / "main.c").write_text("int main;")
    (work / "README").write_text("read")
    git("add", "--all")
    git("commit", "--quiet", "-m", "one")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD").strip()
    (work / "src" / "main.c").write_text("changed")
    git("commit", "--quiet", "--all", "-m", "two")
    git("clone", "--quiet", "--bare", ".", str(bare))
    subprocess.run(["git", "-C", bare, "update-server-info"], check=True, timeout=60)

    layout = mbuild.folder / "layout"
    context = mbuild.context(
        f"FROM scratch\nADD --checksum={commit} {site.url}/project.git?tag=v1&subdir=src /src\n"
        f"ADD {site.url}/project.git#main /all\n"
    )
    built = mbuild.build("-o", f"type=oci,dest={layout}", context)
    assert built["steps"] == {"hit": 0, "run": 2, "total": 2}
    assert files(mbuild, layout) == {"src/main.c": b"int main;", "all/README": b"read", "all/src/main.c": b"changed"}
    assert mbuild.build(context)["steps"] == {"hit": 2, "run": 0, "total": 2}
    assert mbuild.left_over() == []


def test_an_interrupt_stops_a_download_and_leaves_nothing(mbuild: Mbuild) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        context = mbuild.context(f"FROM scratch\nADD http://127.0.0.1:{listening.getsockname()[1]}/big /big\n")
        running = subprocess.Popen(
            mbuild.argv("--progress=plain", context), env=mbuild.environ(), cwd=mbuild.folder, stderr=subprocess.PIPE
        )
        connection, _ = listening.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome")
            time.sleep(0.3)
            begun = time.monotonic()
            running.send_signal(signal.SIGINT)
            _, errors = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert time.monotonic() - begun < 5
    assert mbuild.left_over() == []


@pytest.mark.vm
def test_a_step_in_a_machine_sees_what_was_added(mbuild: Mbuild, busybox: str, site: FolderServer) -> None:
    (site.folder / "tool").write_text("#!/bin/sh\necho it came from afar\n")
    context = mbuild.context(f"FROM {busybox}\nADD --chmod=755 {site.url}/tool /tool\nRUN /tool\n")
    assert "it came from afar" in mbuild.ok("--progress=plain", context).stderr
