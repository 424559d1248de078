"""`mbuild verify` as users run it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild


@pytest.mark.vm
def test_a_date_in_a_file_is_caught_and_an_ordinary_step_verifies(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY program /\nRUN ls / > /ls && hostname >> /ls\n", program="x")
    done = mbuild.ok("verify", "-q", folder)
    assert done.stdout.startswith("reproducible: sha256:")

    (folder / "Machinefile").write_text(f"FROM {busybox}\nCOPY program /\nRUN date > /d\nRUN cat /d > /e\n")
    page = mbuild.folder / "report.html"
    done = mbuild("verify", "-q", "--format=json", "--html", page, folder)
    assert done.returncode == 5, done.stderr
    found = json.loads(done.stdout)
    assert (found["reproducible"], found["step"]["line"], found["cause"]["cause"]) == (False, 3, "timestamp")
    assert [file["path"] for file in found["step"]["files"]] == ["d"]
    assert len(found["later"]) == 1
    assert "timestamp" in page.read_text()
    done = mbuild("verify", "-q", "--step=3", folder)
    assert done.returncode == 5, done.stderr
    assert "cause: timestamp" in done.stdout
    assert mbuild.machines() == []
    assert mbuild.left_over() == []


@pytest.mark.vm
def test_a_date_of_a_held_clock_verifies_and_a_shell_there_has_it_too(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nRUN date > /d && date -r /d >> /d\n")
    done = mbuild.ok("verify", "-q", "--clock=frozen", "--step=2", folder)
    assert done.stdout.startswith("reproducible")
    assert mbuild.ok("debug", "--clock=frozen", "2", folder, "--", "date", "+%s").stdout == "315619200\n"


def test_an_image_is_compared_and_a_label_is_no_file(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY program /\nLABEL made=here\n", program="x")
    layout = mbuild.folder / "layout"
    mbuild.ok("-t", "app", "-o", f"type=oci,dest={layout}", folder)
    for name in ("app", layout):
        assert mbuild.ok("verify", folder, name).stdout.startswith("reproducible: sha256:")
    done = mbuild("verify", "--label", "made=there", folder, "app")
    assert done.returncode == 5
    assert "the files are the same; what differs is what the image says of itself" in done.stdout
    assert "config.labels: made=here -> made=there" in done.stdout
    (folder / "program").write_text("y")
    done = mbuild("verify", folder, "app")
    assert done.returncode == 5
    assert "line 2: COPY" in done.stdout
    assert "      -x" in done.stdout.splitlines()
    assert mbuild.left_over() == []


def test_a_difference_of_compression_is_none_of_files(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY program /\n", program="x" * 1000)
    layout = mbuild.folder / "layout"
    mbuild.ok("-o", f"type=oci,dest={layout},compression=zstd", folder)
    done = mbuild("verify", folder, layout)
    assert done.returncode == 5
    assert "the files are the same; the layers were compressed otherwise" in done.stdout


def test_what_cannot_be_verified_is_refused(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY program /\n", program="x")
    mbuild.environment["PATH"] = str(mbuild.folder)
    assert mbuild("verify", "--step=2", folder, "app").returncode == 2
    assert mbuild("verify", "--step=2", folder).returncode == 2
    missing = mbuild("verify", "--diffoscope", folder)
    assert missing.returncode == 3
    assert "apt-get install diffoscope-minimal" in missing.stderr


def test_stores_go_unless_they_are_kept(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY program /\nCOPY missing /\n")
    assert mbuild("verify", folder).returncode == 2
    assert mbuild.left_over() == []
    (folder / "Machinefile").write_text(f"FROM {busybox}\nCOPY program /\n")
    (folder / "program").write_text("x")
    kept = mbuild.folder / "kept"
    digest = mbuild.ok("verify", "--keep", kept, folder).stdout.split()[1]
    for store in ("first", "second/elsewhere"):
        assert (kept / store / "blobs" / "sha256" / digest.removeprefix("sha256:")).is_file()
    again = mbuild("verify", "--keep", kept, folder)
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    inside = mbuild("verify", "--keep", folder / "kept", folder)
    assert inside.returncode == 2
    assert "is in the build context" in inside.stderr
    (folder / ".dockerignore").write_text("kept\n")
    mbuild.ok("verify", "--keep", folder / "kept", folder)


def test_a_page_that_cannot_be_written_is_told_before_anything_is_built(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY missing /\n")
    done = mbuild("verify", "--html", mbuild.folder / "nowhere" / "page.html", folder)
    assert (done.returncode, "cannot be written" in done.stderr) == (3, True)


def test_the_real_diffoscope_shows_what_is_inside_of_a_file(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY packed.gz same /\n", same="x")
    (folder / "packed.gz").write_bytes(gzip.compress(b"blue\n", mtime=0))
    mbuild.ok("-t", "app", folder)
    (folder / "packed.gz").write_bytes(gzip.compress(b"green\n", mtime=0))
    done = mbuild("verify", "-q", "--diffoscope", folder, "app")
    assert done.returncode == 5, done.stderr
    assert "is not reproducible" in done.stderr
    said = done.stdout.partition("--- first\n+++ second\n")[2]
    assert "packed.gz" in said
    assert "-blue" in said
    assert "+green" in said
    assert "same" not in said
    assert mbuild.left_over() == []


def test_diffoscope_gets_plain_files_without_secrets(mbuild: Mbuild, busybox: str) -> None:
    folder = mbuild.context(f"FROM {busybox}\nCOPY program open /\n", program="it is hunter22", open="öpen 1")
    mbuild.ok("-t", "app", folder)
    (folder / "program").write_text("it is gone")
    (folder / "open").write_text("öpen 2")
    programs = mbuild.folder / "programs"
    programs.mkdir()
    (programs / "diffoscope").write_text('#!/bin/sh\ncat first/* second/*\necho "TMPDIR=$TMPDIR"\nexit 1\n')
    (programs / "diffoscope").chmod(0o755)
    mbuild.environment |= {"PATH": f"{programs}:/usr/bin:/bin", "TOKEN": "hunter22", "PYTHONIOENCODING": "ascii"}
    done = mbuild("verify", "--diffoscope", "--secret", "id=s,env=TOKEN", folder, "app")
    assert done.returncode == 5, done.stderr
    assert "hunter22" not in done.stdout + done.stderr
    assert "a secret of the build is in this file" in done.stdout
    assert "öpen 1öpen 2" in done.stdout.replace("it is gone", "").replace("\n", "").replace(
        "a secret of the build is in this file", ""
    )
    assert "      +\\xf6pen 2" in done.stdout
    assert f"TMPDIR={mbuild.folder}" in done.stdout
    assert mbuild.left_over() == []
