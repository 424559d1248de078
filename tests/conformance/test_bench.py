"""What the comparison itself rests on: the reader, the base images, the list of differences."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance.builders import Bench
from conformance.image_reader import Image, changed, read_layout
from conformance.spec import load_specs

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"
SPECS = load_specs()


def test_there_are_enough_specs() -> None:
    assert len(SPECS) >= 120
    assert len([spec for spec in SPECS if not spec.differs]) >= 120
    assert 10 <= len([spec for spec in SPECS if spec.needs_vm]) <= 40


def test_the_documentation_lists_the_differences_that_the_specs_show() -> None:
    text = DIFFERENCES.read_text().partition("## From buildah\n")[2].partition("\n## ")[0]
    headings = [heading.lower().replace(" ", "-") for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)]
    assert headings == sorted(headings)
    assert set(headings) == {spec.differs for spec in SPECS if spec.differs}


@pytest.fixture(params=["plain", "rich"])
def unpacked(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Iterator[tuple[Image, Path]]:
    """A base image as our reader has it, and as umoci unpacks it."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("unpacking owners and devices needs root")
    layout = bench.folder / "plain"
    if request.param == "rich":
        layout = tmp_path / "layout"
        source, target = f"docker-archive:{bench.folder}/rich.tar", f"oci:{layout}:latest"
        subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", source, target], check=True, timeout=60)
    argv = ["umoci", "unpack", "--image", f"{layout}:latest", str(tmp_path / "bundle")]
    subprocess.run(argv, check=True, timeout=60, capture_output=True)
    yield read_layout(layout), tmp_path / "bundle" / "rootfs"
    shutil.rmtree(tmp_path / "bundle")


def test_the_reader_sees_what_umoci_unpacks(unpacked: tuple[Image, Path]) -> None:
    image, root = unpacked
    seen = {f"/{path.relative_to(root)}": path for path in root.rglob("*")}
    assert set(seen) == set(image.tree)
    first: dict[int, str] = {}
    for name, path in sorted(seen.items()):
        status = path.lstat()
        text = image.tree[name]
        holder = name if path.is_dir() else first.setdefault(status.st_ino, name)
        if holder != name:
            assert text == f"same file as {holder}"
            continue
        owner = f"{status.st_uid}:{status.st_gid}"
        if path.is_symlink():
            assert text == f"link {owner} -> {os.readlink(path)}"
            continue
        kind = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFIFO: "fifo"}[stat.S_IFMT(status.st_mode)]
        assert text.startswith(f"{kind} {stat.S_IMODE(status.st_mode):o} {owner}")
        if kind == "file" and status.st_size <= 80:
            assert text.endswith(repr(path.read_bytes())[1:])


def test_a_difference_of_any_kind_is_seen() -> None:
    one = Image({"/a": "file 644 0:0 'x'", "/gone": "dir 755 0:0"}, {}, "linux/amd64")
    two = Image({"/a": "file 600 0:0 'x'", "/new": "dir 755 0:0"}, {}, "linux/amd64")
    assert changed(one, two) == {"/a": "file 644 0:0 'x'", "/gone": "dir 755 0:0", "/new": "gone"}


def test_neither_umask_nor_the_machine_s_language_matters(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = next(spec for spec in SPECS if spec.name.startswith("--chown of a folder"))
    digests = set()
    for umask, language in ((0o000, "C"), (0o022, "de_DE.UTF-8"), (0o077, "ja_JP.UTF-8")):
        monkeypatch.setenv("LC_ALL", language)
        before = os.umask(umask)
        try:
            bench.mbuild(spec, f"umask-{umask:o}", "--no-cache")
        finally:
            os.umask(before)
        (index,) = bench.folder.glob(f"umask-{umask:o}/**/out/index.json")
        digests.add(index.read_text())
    assert len(digests) == 1
