"""A build that goes straight into a registry, and one whose output is standard output."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild


@pytest.mark.registry
def test_a_build_is_pushed_with_its_annotations(mbuild: Mbuild, registry: object) -> None:
    name = f"{registry.address}/pushed/app:1"  # type: ignore[attr-defined]
    context = mbuild.context("FROM scratch\nCOPY Machinefile /m\n")
    built = mbuild.build("-t", name, "--push", "--annotation", "org.example.team=ours", context)
    argv = ["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"]
    seen = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    assert json.loads(seen)["Digest"] == built["image.digest"]
    raw = subprocess.run([*argv, "--raw"], check=True, capture_output=True, text=True, timeout=60).stdout
    assert json.loads(raw)["annotations"] == {"org.example.team": "ours"}


def test_nothing_stands_behind_a_tar_on_standard_output(mbuild: Mbuild) -> None:
    context = mbuild.context("FROM scratch\nCOPY Machinefile /m\n")
    done = subprocess.run(mbuild.argv("-o", "-", context), env=mbuild.environ(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"sha256:" not in done.stdout
    listed = subprocess.run(["tar", "-t"], input=done.stdout, capture_output=True, check=True, timeout=60).stdout
    assert listed == b"m\n"
