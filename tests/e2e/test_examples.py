"""The examples, on a real Debian base from a real registry: built, checked by other tools, run, and built again."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_debian import BUILD_TAR, with_one_suite

if TYPE_CHECKING:
    from conftest import Mbuild

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.vm, pytest.mark.registry]


def skopeo(*arguments: object) -> str:
    argv = ["skopeo", "--insecure-policy", *map(str, arguments)]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


def test_a_c_program_is_compiled_in_one_stage_and_shipped_in_another(mbuild: Mbuild, build_base: str) -> None:
    """As users build it, but on a base that has what the first stage installs, and whose apt knows of few packages: it
    asks its mirror, and finds nothing to do. Installing gcc in software takes minutes; scripts/demo does."""
    layout = mbuild.folder / "layout"
    base = with_one_suite(mbuild, build_base, BUILD_TAR, "bookworm-updates")
    arguments = ("--build-arg", f"BASE={base}", "-t", "c-program", "-o", f"type=oci,dest={layout}")
    first = mbuild.build(*arguments, EXAMPLES / "c-program")
    assert first["vm.restores"] == 2
    ran = mbuild.ok("run", "c-program", "tests")
    assert "Hello" in ran.stdout
    assert "tests" in ran.stdout

    again = mbuild.build(*arguments, EXAMPLES / "c-program")
    assert again["image.digest"] == first["image.digest"]
    assert again["vm.restores"] == 0
    assert again["steps"]["run"] == 0  # type: ignore[index]

    seen = json.loads(skopeo("inspect", f"oci:{layout}:latest"))
    assert seen["Digest"] == first["image.digest"]
    assert len(seen["Layers"]) == 1, "the compiler stays in its stage"
    skopeo("copy", f"oci:{layout}:latest", f"docker-archive:{mbuild.folder / 'saved.tar'}:c-program:latest")
    bundle = mbuild.folder / "bundle"
    umoci = ["umoci", "unpack", "--rootless", "--image", f"{layout}:latest", bundle]
    subprocess.run(umoci, check=True, timeout=120, capture_output=True)
    assert sorted(path.name for path in (bundle / "rootfs").iterdir()) == ["hello"]
    said = subprocess.run([bundle / "rootfs" / "hello", "umoci"], check=True, capture_output=True, text=True)
    assert "Hello from a C program, umoci!" in said.stdout


def test_hello_says_hello_and_a_change_of_the_command_reruns_nothing(mbuild: Mbuild, debian: str) -> None:
    built = mbuild.build("--build-arg", f"BASE={debian}", "-t", "hello", EXAMPLES / "hello")
    assert built["vm.restores"] == 1
    assert "built in a microVM" in mbuild.ok("run", "hello").stdout
    text = (EXAMPLES / "hello" / "Machinefile").read_text().replace("ARG BASE=", f"ARG BASE={debian} # ")
    text = "\n".join(line.partition(" # ")[0] for line in text.splitlines())
    changed = mbuild.build(mbuild.context(text + '\nLABEL more=yes\nCMD ["true"]\n'))
    assert changed["vm.restores"] == 0
    assert changed["image.digest"] != built["image.digest"]


def test_a_web_server_answers_from_its_snapshot(mbuild: Mbuild, debian: str) -> None:
    mbuild.build("--build-arg", f"BASE={debian}", "-t", "web", EXAMPLES / "web")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = mbuild.argv("run", "-p", f"{port}:80", "web")
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(argv, env=mbuild.environ(), cwd=mbuild.folder, **streams)
    try:
        deadline = time.monotonic() + 60
        page = ""
        while not page:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                    page = answer.read().decode()
            except OSError:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert "restored since" in page
    finally:
        process.kill()
        said = process.communicate(timeout=30)
    assert said == (b"", b""), "it was started before: a restored server says nothing"


def test_an_image_of_ours_can_be_the_base_of_the_next(mbuild: Mbuild, debian: str, registry: object) -> None:
    layout, archive = mbuild.folder / "layout", mbuild.folder / "saved.tar"
    text = f"FROM {debian}\nRUN echo below > /below\nENV FROM_BELOW=yes\n"
    mbuild.build("-t", "below", "-o", f"type=oci,dest={layout}", mbuild.context(text))
    skopeo("copy", f"oci:{layout}:latest", f"docker-archive:{archive}:below:latest")
    name = registry.copy(f"oci:{layout}:latest", "below:latest")  # type: ignore[attr-defined]
    for base in (f"oci-layout:{layout}:latest", f"docker-archive:{archive}", name):
        mbuild.build(
            "-t", "above", mbuild.context(f'FROM {base}\nRUN test "$FROM_BELOW" = yes && cat /below > /above\n')
        )
        assert mbuild.ok("run", "above", "cat", "/above").stdout == "below\n"
