"""The examples that are to come out the same every time: verified, and built as on another machine."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e_debian import BASE_TAR, with_one_suite

if TYPE_CHECKING:
    from conftest import Mbuild

EXAMPLES = Path(__file__).parents[2] / "examples"
CHECKED_HASH = b"\x03\0\0\0"
"""What a .pyc has behind its magic number if it is checked by the hash of its source: PEP 552."""
pytestmark = pytest.mark.vm


def named(base: str) -> str:
    """How --build-context names what FROM calls so."""
    return base.replace("oci-layout:", "oci-layout://", 1)


def verified(mbuild: Mbuild, *arguments: object) -> str:
    """The digest of what `mbuild verify` built twice; the stores stay in `kept`, and the first becomes mbuild's."""
    kept = mbuild.folder / "kept"
    said = mbuild.ok("verify", "-q", "--keep", kept, *arguments).stdout
    assert said.startswith("reproducible: sha256:")
    mbuild.store = kept / "first"
    return said.split()[1]


def checkout(example: str, folder: Path) -> Path:
    """A copy of an example, as of another day and of a user with another umask."""
    shutil.copytree(EXAMPLES / example, folder, copy_function=shutil.copyfile)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1_500_000_001, 1_500_000_001))
    return folder


def own_files(store: Path, digest: str) -> dict[str, bytes]:
    """The files of an image's layers but the base's, by path."""
    blobs = store / "blobs" / "sha256"
    found = {}
    for layer in json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())["layers"][1:]:
        blob = (blobs / layer["digest"].removeprefix("sha256:")).read_bytes()
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(blob))) as tar:
            for entry in tar:
                if (content := tar.extractfile(entry)) is not None:
                    found[entry.name] = content.read()
    return found


def test_packages_are_installed_without_the_day_on_which_it_was(mbuild: Mbuild, debian: str) -> None:
    # The release without its updates: nothing new comes into it between two builds, and it does not expire.
    base = with_one_suite(mbuild, debian, BASE_TAR, "bookworm")
    arguments = ("--build-arg", f"BASE={base}", EXAMPLES / "apt-install")
    digest = verified(mbuild, *arguments)
    built = mbuild.build("-t", "apt-install", *arguments)
    assert (built["image.digest"], built["vm.restores"]) == (digest, 0)
    assert mbuild.ok("run", "apt-install").stdout == "2\n"


def test_a_c_program_is_the_same_on_another_machine(
    mbuild: Mbuild, build_base: str, tmp_path: Path, templates: Path
) -> None:
    arguments = ("--build-context", f"compiler={named(build_base)}")
    digest = verified(mbuild, *arguments, EXAMPLES / "c-program")

    mbuild.folder = tmp_path / "another home"
    mbuild.folder.mkdir()
    mbuild.store = mbuild.folder / "a longer" / "store"
    mbuild.store.mkdir(parents=True)
    (mbuild.store / "vm").symlink_to(templates)
    mbuild.environment |= {"TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "77"}
    mbuild.prefix = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    context = checkout("c-program", tmp_path / "checked out")
    assert mbuild.build("-t", "c-program", *arguments, context)["image.digest"] == digest
    said = mbuild.ok("run", "c-program", "tests").stdout
    assert "Hello from a C program, tests!" in said
    assert "compiled on Jan  2 1980 at 00:00:00" in said


def test_a_python_app_is_the_same_with_its_bytecode(mbuild: Mbuild, build_base: str, tmp_path: Path) -> None:
    arguments = ("--build-context", f"python={named(build_base)}")
    digest = verified(mbuild, *arguments, EXAMPLES / "python-app")
    built = mbuild.build("-t", "python-app", *arguments, checkout("python-app", tmp_path / "checked out"))
    assert (built["image.digest"], built["vm.restores"]) == (digest, 0), "neither time nor umask of a checkout count"
    assert mbuild.ok("run", "python-app", "make", "image", "make").stdout == "2  make\n1  image\n"

    files = own_files(mbuild.store, digest)
    bytecode = {path: content for path, content in files.items() if path.endswith(".pyc")}
    assert {path.partition("/__pycache__/")[0] for path in bytecode} == {
        "app/packages/tabulate",
        "app/wordcount",
    }, "all that is compiled is said in the Machinefile"
    assert all(content[4:8] == CHECKED_HASH for content in bytecode.values())
    days = [line.split(b":")[2] for line in files["etc/shadow"].splitlines() if line.startswith(b"app:")]
    assert days == [b"3653"], "1980-01-02"
