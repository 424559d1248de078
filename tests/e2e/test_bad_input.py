"""Mistakes and broken surroundings: a message with the place and what to do, the documented exit code, a good store."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

FAULTS = [
    ("FROM {base}\nCOPPY a /a\n", 2, "Machinefile:2:1", "COPY"),
    ("RUN true\n", 2, "Machinefile:1", "FROM"),
    ("", 2, "", "FROM"),
    ("FROM {base} AS a\nCOPY --from=b /x /\nFROM {base} AS b\nCOPY --from=a /x /\n", 2, "Machinefile:", "a"),
    ("FROM {base}\nCOPY --from=0 /x /\n", 2, "Machinefile:2", ""),
    ("FROM {base}\nCOPY nothing /x\n", 2, "Machinefile:2", "nothing"),
    ("FROM {base}\nCOPY ../outside /x\n", 2, "Machinefile:2", "outside"),
    ("FROM {base}\nCOPY link /x\n", 2, "Machinefile:2", "link"),
    ("FROM oci-layout:/nonexistent:x\nRUN true\n", 4, "Machinefile:1", "/nonexistent"),
    ("FROM 127.0.0.1:1/none:x\nRUN true\n", 4, "Machinefile:1", "127.0.0.1:1"),
    ("FROM Not/A/Name\n", 2, "Machinefile:1", "Not/A/Name"),
    ("FROM {base}\nENV\n", 2, "Machinefile:2", "ENV"),
    ('FROM {base}\nCMD ["unclosed\n', 0, "", ""),
    ("FROM {base}\nRUN --network=host true\n", 2, "Machinefile:2", "host"),
    ("FROM {base}\nRUN --mount=type=secret,id=x,required true\n", 2, "Machinefile:2", "secret"),
    ("FROM {base}\nADD http://127.0.0.1:1/x /\n", 4, "Machinefile:2", "127.0.0.1"),
    ("FROM {base}\nCOPY --chown=ghost f /\n", 1, "Machinefile:2", "ghost"),
    ("FROM --platform=linux/nonsense {base}\nRUN true\n", 2, "Machinefile:2", "nonsense"),
]


@pytest.mark.parametrize(("text", "code", "place", "words"), FAULTS)
def test_a_mistake_is_explained(mbuild: Mbuild, busybox: str, text: str, code: int, place: str, words: str) -> None:
    context = mbuild.context(text.format(base=busybox), f="content")
    (context / "link").symlink_to("/etc/passwd")
    (mbuild.folder / "outside").write_text("not yours")
    done = mbuild(context)
    assert done.returncode == code, done.stderr
    assert place in done.stderr
    assert words in done.stderr
    if code:
        assert "built sha256" not in done.stderr
        assert "sha256" not in done.stdout
        assert mbuild.left_over() == []
    assert mbuild.build(mbuild.context(f"FROM {busybox}\nCOPY f /\n", f="f"))["steps"], "the store is still good"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-such-option", "."], "--no-such-option"),
        (["/nonexistent"], "/nonexistent"),
        (["-f", "none", "."], "none"),
        (["--platform", "a/b/c/d", "."], "a/b/c/d"),
        (["--label", "x", "."], "x"),
        (["-o", "type=nonsense,dest=x", "."], "nonsense"),
        (["-o", "type=machine", "."], "dest=PATH is missing"),
        (["--secret", "id=x", "."], "cannot be read from x"),
        (["--ssh", "default", "."], "SSH_AUTH_SOCK"),
        (["--target", "none", "."], "none"),
        (["-t", "Not A Name", "."], "Not A Name"),
        (["run", "--cache-dir", "s", "never-built"], "never-built"),
    ],
)
def test_a_wrong_command_line_is_explained(mbuild: Mbuild, arguments: list[str], words: str) -> None:
    (mbuild.folder / "Machinefile").write_text("FROM scratch\nCOPY Machinefile /\n")
    done = mbuild(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def damaged(busybox: str, target: Path, damage: str) -> str:
    """A copy of the base with its layer cut, changed or gone."""
    import shutil

    source = Path(busybox.removeprefix("oci-layout:").rpartition(":")[0])
    shutil.copytree(source, target)
    entry = json.loads((target / "index.json").read_text())["manifests"][0]
    blob = target / "blobs" / "sha256"
    manifest = json.loads((blob / entry["digest"][7:]).read_text())
    layer = blob / manifest["layers"][0]["digest"][7:]
    data = layer.read_bytes()
    match damage:
        case "truncated":
            layer.write_bytes(data[: len(data) // 2])
        case "changed":
            layer.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "gone":
            layer.unlink()
        case "recompressed":
            layer.write_bytes(gzip.compress(gzip.decompress(data), 1, mtime=1))
    return f"oci-layout:{target}:latest"


@pytest.mark.parametrize("damage", ["truncated", "changed", "gone", "recompressed"])
def test_a_damaged_base_is_refused_and_not_kept(mbuild: Mbuild, busybox: str, damage: str) -> None:
    base = damaged(busybox, mbuild.folder / "damaged", damage)
    done = mbuild(mbuild.context(f"FROM {base}\nCOPY Machinefile /m\n"))
    assert done.returncode == 4, done.stderr
    assert mbuild.left_over() == []
    for blob in (mbuild.store / "blobs" / "sha256").iterdir():
        import hashlib

        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    mbuild.build(mbuild.context(f"FROM {busybox}\nCOPY Machinefile /m\n"))


def test_a_registry_that_hangs_up_is_a_transfer_that_failed(mbuild: Mbuild) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    done = mbuild(mbuild.context(f"FROM 127.0.0.1:{port}/x:y\nRUN true\n"))
    assert done.returncode == 4
    assert f"127.0.0.1:{port}" in done.stderr


def test_without_qemu_a_run_says_which_package_to_install(mbuild: Mbuild, busybox: str) -> None:
    tools = mbuild.folder / "tools"
    tools.mkdir()
    import shutil

    for program in ("tar2sqfs", "mke2fs"):
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert found
        (tools / program).symlink_to(found)
    mbuild.environment["PATH"] = str(tools)
    done = mbuild(mbuild.context(f"FROM {busybox}\nRUN true\n"))
    assert done.returncode == 3, done.stderr
    assert "qemu" in done.stderr
    assert "apt-get install" in done.stderr
    assert mbuild("doctor").returncode == 3


def test_without_a_kernel_a_run_says_how_to_get_one(mbuild: Mbuild, busybox: str) -> None:
    mbuild.environment["MBUILD_KERNEL_DIR"] = str(mbuild.folder / "no-kernel-here")
    done = mbuild(mbuild.context(f"FROM {busybox}\nRUN true\n"))
    assert done.returncode == 3, done.stderr
    assert "kernel" in done.stderr


def test_a_store_that_cannot_be_written_says_so(mbuild: Mbuild) -> None:
    blocked = mbuild.folder / "file"
    blocked.write_text("")
    done = mbuild("--cache-dir", blocked / "store", mbuild.context("FROM scratch\nCOPY Machinefile /\n"))
    assert done.returncode == 3
    assert "--cache-dir" in done.stderr or "store" in done.stderr


def test_an_output_that_cannot_be_written_says_so(mbuild: Mbuild) -> None:
    context = mbuild.context("FROM scratch\nCOPY Machinefile /\n")
    done = mbuild("-o", "type=oci,dest=/proc/nonexistent/out", context)
    assert done.returncode == 3
    assert "/proc/nonexistent/out" in done.stderr


def test_messages_point_with_a_caret(mbuild: Mbuild, busybox: str) -> None:
    done = mbuild(mbuild.context(f"FROM {busybox}\nCOPPY a /a\n"))
    assert re.search(r"\n +2 \| COPPY a /a\n +\^+\n", done.stderr), done.stderr


def test_the_machinefile_can_come_from_standard_input(mbuild: Mbuild) -> None:
    (mbuild.folder / "f").write_text("x")
    done = mbuild("-f", "-", ".", stdin="FROM scratch\nCOPY f /\n")
    assert done.returncode == 0, done.stderr
    done = mbuild("-f", "-", ".", stdin="FROM scratch\nCOPPY f /\n")
    assert done.returncode == 2
    assert "-:2:1" in done.stderr
