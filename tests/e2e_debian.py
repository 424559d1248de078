"""The Debian bases that scripts/setup makes."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

ROOT = Path(__file__).parents[1]
BASE_TAR = ROOT / ".cache" / "debian-bookworm.tar.gz"
BUILD_TAR = ROOT / ".cache" / "debian-bookworm-build.tar.gz"
_OPTIONS = {BASE_TAR: "--base", BUILD_TAR: "--build-base"}


def debian_layout(tar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout of a base, in which it is called bookworm-slim."""
    if not tar.exists():
        pytest.fail(f"{tar} is missing: run scripts/setup {_OPTIONS[tar]}")
    layout = tmp_path_factory.mktemp("debian") / "layout"
    subprocess.run([sys.executable, ROOT / "scripts" / "oci_base.py", tar, layout], check=True, timeout=120)
    return layout


def with_one_suite(mbuild: Mbuild, base: str, tar: Path, suite: str) -> str:
    """A base, made of that tar, with those of its apt sources that are of one suite. How FROM names it."""
    with tarfile.open(tar) as opened:
        content = opened.extractfile("./etc/apt/sources.list")
        assert content is not None
        lines = content.read().decode().splitlines(keepends=True)
    sources = "".join(line for line in lines if suite in line.split())
    context = mbuild.context(f"FROM {base}\nCOPY sources.list /etc/apt/\n", "one suite", **{"sources.list": sources})
    layout = mbuild.folder / "one suite of apt"
    mbuild.ok("-q", "-t", f"base:{suite}", "-o", f"type=oci,dest={layout}", context)
    return f"oci-layout:{layout}:{suite}"
