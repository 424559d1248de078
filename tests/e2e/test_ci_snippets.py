"""The snippets of docs/ci.md, run as they stand there: the first time cold, then with an empty store."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Mbuild

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ci.md").read_text()
pytestmark = [pytest.mark.vm, pytest.mark.registry]

MACHINEFILE = """\
FROM {busybox} AS build
WORKDIR /src
COPY source .
RUN mkdir /out && tr a-z A-Z < source > /out/program
FROM {busybox}
RUN echo prepared > /prepared
COPY --from=build /out/program /program
CMD ["cat", "/program"]
"""


def blocks(heading: str) -> list[str]:
    """The code blocks of a section of the page."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert section, heading
    return re.findall(r"^```\w+\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)


def github(step: str) -> str:
    steps = yaml.safe_load(blocks("GitHub Actions")[0])["jobs"]["image"]["steps"]
    script: str = next(one["run"] for one in steps if one.get("name") == step)
    return script


def gitlab() -> str:
    return "\n".join(yaml.safe_load(blocks("GitLab CI")[0])["image"]["script"])


class Runner:
    """Runs a snippet as a job would: in a checkout, with `mbuild` on the PATH and a store that was never used."""

    def __init__(self, mbuild: Mbuild, templates: Path, checkout: Path, environment: dict[str, str]) -> None:
        self._mbuild = mbuild
        self._templates = templates
        self.checkout = checkout
        self._environment = environment
        self._jobs = 0

    def __call__(self, script: str) -> tuple[str, dict[str, object]]:
        """What it printed as progress, and the metadata file if it writes one."""
        self._jobs += 1
        home = self._mbuild.folder / f"home-{self._jobs}"
        store = home / "store"
        store.mkdir(parents=True)
        (store / "vm").symlink_to(self._templates)
        programs = home / "bin"
        programs.mkdir()
        command = programs / "mbuild"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m mbuild "$@"\n')
        command.chmod(0o755)
        environment = self._mbuild.environ() | self._environment
        environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home), "MBUILD_CACHE_DIR": str(store)}
        metadata = self.checkout / "build.json"
        metadata.unlink(missing_ok=True)
        argv = ["bash", "-e", "-o", "pipefail", "-c", script]
        done = subprocess.run(
            argv, env=environment, cwd=self.checkout, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        shutil.rmtree(store)
        return done.stderr, json.loads(metadata.read_text()) if metadata.exists() else {}


@pytest.fixture
def runner(mbuild: Mbuild, templates: Path, busybox: str, registry: object, request: pytest.FixtureRequest) -> Runner:
    checkout = mbuild.context(MACHINEFILE.format(busybox=busybox), source="hello\n")
    (checkout / ".dockerignore").write_text("build.json\nMachinefile\n")
    image = f"{registry.address}/ci/{request.node.originalname.replace('_', '-')}"  # type: ignore[attr-defined]
    environment = {
        "IMAGE": image,
        "CI_REGISTRY": image.partition("/")[0],
        "CI_REGISTRY_USER": "u",
        "CI_REGISTRY_PASSWORD": "p",
        "CI_COMMIT_REF_SLUG": "topic",
        "CI_DEFAULT_BRANCH": "main",
        "CACHE": str(mbuild.folder / "kept"),
    }
    return Runner(mbuild, templates, checkout, environment)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(github("Build and push"), id="github"),
        pytest.param(gitlab(), id="gitlab"),
        pytest.param(blocks("A plain script")[0], id="plain"),
    ],
)
def test_a_second_job_starts_no_microvm(runner: Runner, script: str) -> None:
    _, cold = runner(script)
    assert cold["steps"] == {"hit": 0, "run": 5, "total": 5}
    assert cold["vm.restores"] == 2
    _, warm = runner(script)
    assert warm["steps"] == {"hit": 5, "run": 0, "total": 5}
    assert warm["vm.restores"] == 0
    assert warm["image.digest"] == cold["image.digest"]


def test_a_pull_request_reads_the_cache_and_a_plan_tells_so(runner: Runner) -> None:
    runner(github("Build and push"))
    shown, _ = runner(github("Build a pull request"))
    steps = re.findall(r"^#(\d+) \[.*\] (?:RUN|COPY|WORKDIR) ", shown, re.MULTILINE)
    assert len(steps) == 5
    assert all(f"#{number} CACHED" in shown for number in steps)
    runner(f"{blocks('Telling whether the cache works')[0].strip()} > plan")
    lines = (runner.checkout / "plan").read_text().splitlines()
    assert not [line for line in lines if "MISS" in line and "FROM" not in line]
