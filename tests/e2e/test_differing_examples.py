"""The examples of what makes builds differ, in real microVMs: `mbuild verify` names step, file and cause of each, and
has nothing to say of the mended ones."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from differing_examples import Shown, shown
from e2e_bases import write_python_layout
from e2e_debian import BASE_TAR, debian_layout

if TYPE_CHECKING:
    from conftest import Mbuild

PYTHON = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
pytestmark = pytest.mark.vm


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The smaller of two bases that does for each example."""
    python = tmp_path_factory.mktemp("bases") / "python"
    write_python_layout(python)
    debian = f"oci-layout:{debian_layout(BASE_TAR, tmp_path_factory)}:bookworm-slim"
    small = f"oci-layout:{python}:latest"
    return {one.name: small if one.name in ("date", "random", "bytecode") else debian for one in shown()}


@pytest.mark.parametrize("example", shown(), ids=lambda example: example.name)
def test_a_build_that_differs_is_caught_with_step_file_and_cause(
    mbuild: Mbuild, bases: dict[str, str], example: Shown
) -> None:
    base = bases[example.name]
    done = mbuild("verify", "-q", "--format=json", "--build-arg", f"BASE={base}", example.folder)
    assert done.returncode == 5, done.stderr
    found = json.loads(done.stdout)
    assert not found["reproducible"]
    assert (found["step"]["line"], found["step"]["instruction"]) == (example.line, example.broken)
    file = found["step"]["files"][0]
    inner = f" ({file['inner']})" if file["inner"] else ""
    said = f"/{file['path']}{inner}: {found['cause']['cause']}: {found['cause']['why']}"
    assert said.replace(PYTHON, "cpython-311") == example.said
    assert [one["path"] for one in found["step"]["files"] if one["guess"] is None] == []
    assert found["later"] == []
    assert mbuild.left_over() == []


def test_the_same_builds_mended_verify(mbuild: Mbuild, bases: dict[str, str]) -> None:
    """All in one build: the small base's on top of Debian's."""
    folder = mbuild.context("")
    lines: dict[str, list[str]] = {}
    for example in shown():
        lines.setdefault(bases[example.name], []).extend(_instructions(example))
        for path in example.folder.iterdir():
            if path.is_dir():
                shutil.copytree(path, folder / path.name)
    small, debian = sorted(lines, key=lambda base: "debian" in base)
    text = (f"FROM {small} AS small", *lines[small], f"FROM {debian}", *lines[debian], "COPY --from=small / /small")
    (folder / "Machinefile").write_text("\n".join(text) + "\n")
    assert mbuild.ok("verify", "-q", folder).stdout.startswith("reproducible: sha256:")


def _instructions(example: Shown) -> list[str]:
    """Those of the mended twin behind FROM."""
    return (example.folder / "Machinefile.mended").read_text().splitlines()[2:]
