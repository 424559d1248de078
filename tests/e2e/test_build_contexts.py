"""--build-context by the command itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild


def test_a_folder_beside_the_context_is_copied_from(mbuild: Mbuild) -> None:
    assets = mbuild.folder / "assets"
    assets.mkdir()
    (assets / "logo").write_text("logo")
    context = mbuild.context("FROM scratch\nCOPY --from=assets logo /logo\n")
    # Relative paths begin where the command runs.
    first = mbuild.build("--build-context", "assets=assets", context)
    assert first["steps"] == {"hit": 0, "run": 1, "total": 1}
    (assets / "logo").write_text("other")
    plan = json.loads(mbuild.ok("plan", "--format", "json", "--build-context", f"assets={assets}", context).stdout)
    assert [step["hit"] for step in plan["steps"]] == [True, False]


def test_an_image_stands_in_for_the_base_and_is_copied_from(mbuild: Mbuild, busybox: str) -> None:
    layout = busybox.replace("oci-layout:", "oci-layout://")
    context = mbuild.context("FROM alpine:3\nCOPY --from=tools /bin/busybox /copy\n")
    done = mbuild.build("--build-context", f"alpine:3={layout}", "--build-context", f"tools={layout}", context)
    assert done["steps"] == {"hit": 0, "run": 1, "total": 1}


def test_checking_a_file_opens_no_context(mbuild: Mbuild) -> None:
    context = mbuild.context("FROM base\nCOPY --from=tools /x /y\n")
    contexts = ("--build-context", "base=oci-layout://none", "--build-context", "tools=docker-image://127.0.0.1:1/x")
    done = mbuild("lint", *contexts, context)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["a", "a=none", "a=https://example.org/x.tar", "a=docker-image://Not A Name", "=x"])
def test_a_context_that_makes_no_sense_is_explained(mbuild: Mbuild, value: str) -> None:
    done = mbuild("--build-context", value, mbuild.context("FROM scratch\nCOPY Machinefile /\n"))
    assert done.returncode == 2
    assert "mbuild" in done.stderr


@pytest.mark.parametrize("context", ["https://example.org/x.git", "git@example.org:x.git", "-"])
def test_a_main_context_from_elsewhere_is_refused(mbuild: Mbuild, context: str) -> None:
    done = mbuild(context)
    assert done.returncode == 2
    assert "must be a folder" in done.stderr
