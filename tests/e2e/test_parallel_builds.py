"""Steps side by side: in one build, and in builds of several processes."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Mbuild

pytestmark = pytest.mark.vm

STAGES = 30


def diamond(base: str) -> str:
    """One stage below, many that stand on it, and one that takes from all of them."""
    middle = "".join(f"FROM bottom AS m{n}\nRUN echo {n} >> /seed && cp /seed /m{n}\n" for n in range(STAGES - 2))
    top = "".join(f"COPY --from=m{n} /m{n} /m/\n" for n in range(STAGES - 2))
    shape = "MACHINE cpus=1 memory=256M\n"
    return f"FROM {base} AS bottom\n{shape}RUN echo seed > /seed\n{middle}FROM {base}\n{top}"


def test_a_diamond_of_thirty_stages_is_the_same_image_with_one_job_and_with_eight(mbuild: Mbuild, busybox: str) -> None:
    context = mbuild.context(diamond(busybox))
    alone = mbuild.build("--jobs=1", context)
    together = mbuild.build("--jobs=8", "--no-cache", context)
    assert alone["steps"] == together["steps"] == {"hit": 0, "run": 57, "total": 57}
    assert alone["vm.restores"] == together["vm.restores"] == STAGES - 1
    assert alone["image.digest"] == together["image.digest"]


def test_two_processes_that_need_the_same_step_run_it_once(mbuild: Mbuild, busybox: str) -> None:
    steps = "".join(f"RUN echo {n} > /{n}; sleep 1\n" for n in range(3))
    context = mbuild.context(f"FROM {busybox}\nMACHINE cpus=1 memory=256M\n{steps}")
    children = []
    for number in range(2):
        argv = mbuild.argv("--progress=plain", "--metadata-file", mbuild.folder / f"{number}.json", context)
        children.append(
            subprocess.Popen(
                argv, env=mbuild.environ(), cwd=mbuild.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    for child in children:
        _, errors = child.communicate(timeout=300)
        assert child.returncode == 0, errors.decode()
    said = [json.loads((mbuild.folder / f"{number}.json").read_text()) for number in range(2)]
    assert sum(one["vm.restores"] for one in said) == 3
    assert said[0]["image.digest"] == said[1]["image.digest"]


def test_the_failed_step_is_shown_and_what_ran_beside_it_is_stopped(mbuild: Mbuild, busybox: str) -> None:
    context = mbuild.context(
        f"FROM {busybox} AS slow\nMACHINE cpus=1 memory=256M\nRUN echo began > /began; sleep 300\n"
        f"FROM {busybox} AS broken\nMACHINE cpus=1 memory=256M\nRUN sleep 1; seq 1 50; exit 9\n"
        f"FROM {busybox}\nCOPY --from=slow /began /\nCOPY --from=broken /etc /etc\n"
    )
    done = mbuild("--progress=plain", "--jobs=2", context)
    assert done.returncode == 1
    assert "exit code 9" in done.stderr
    tail = done.stderr.split("------")[1].splitlines()[2:]
    assert [line for line in tail if line] == [str(number) for number in range(11, 51)]
    assert not mbuild.machines()
