"""The command itself, as users run it: a store, bases, and processes that must not be left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e_bases import write_busybox_layout
from e2e_debian import BASE_TAR, BUILD_TAR, debian_layout
from e2e_processes import processes
from open_folders import open_to_all
from vm_support import template_folder

ROOT = Path(__file__).parents[2]

TIMEOUT = 900.0


@dataclass
class Mbuild:
    """Runs `mbuild` against a store of its own."""

    folder: Path
    store: Path
    prefix: tuple[str, ...] = ()
    """Put before the command: setpriv and the like."""
    environment: dict[str, str] = field(default_factory=dict)

    def argv(self, *arguments: object) -> list[str]:
        """The whole command line."""
        return [*self.prefix, sys.executable, "-m", "mbuild", *map(str, arguments)]

    def environ(self) -> dict[str, str]:
        """What the command sees."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        ours = {"MBUILD_CACHE_DIR": str(self.store), "HOME": str(self.folder), "PYTHONPATH": str(ROOT)}
        return {**kept, **ours, "PYTHONDONTWRITEBYTECODE": "1", **self.environment}

    def __call__(self, *arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.environ(),
            cwd=self.folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run it; it must do well."""
        done = self(*arguments)
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def build(self, *arguments: object) -> dict[str, object]:
        """Build, and give what the metadata file says."""
        metadata = self.folder / "metadata.json"
        self.ok("--progress=plain", "--metadata-file", metadata, *arguments)
        found: dict[str, object] = json.loads(metadata.read_text())
        return found

    def context(self, machinefile: str, name: str = "context", **files: str) -> Path:
        """A build context with a Machinefile."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "Machinefile").write_text(machinefile)
        for file, content in files.items():
            (folder / file).write_text(content)
        return folder

    def machines(self) -> list[int]:
        """The QEMU processes that work for this store."""
        return [pid for pid, argv in processes() if "qemu" in argv[0] and any(str(self.store) in word for word in argv)]

    def left_over(self) -> list[Path]:
        """Temporary files in the store that belong to no running build."""
        found = list((self.store / "disks").glob(".*"))
        return found + [path for path in (self.store / "tmp").glob("*") if path.is_dir()]


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The microVM templates that all stores of the run share."""
    return template_folder(tmp_path_factory)


@pytest.fixture
def mbuild(tmp_path: Path, templates: Path) -> Mbuild:
    """An empty store, but for the templates."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "vm").symlink_to(templates)
    return Mbuild(tmp_path, store)


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base with busybox and nothing else, as an OCI layout; how FROM names it."""
    layout = tmp_path_factory.mktemp("busybox") / "layout"
    write_busybox_layout(layout)
    open_to_all(layout)  # an ordinary user must be able to read it
    return f"oci-layout:{layout}:latest"


@pytest.fixture(scope="session")
def debian(registry: object, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Debian base in a real registry; how FROM names it."""
    layout = debian_layout(BASE_TAR, tmp_path_factory)
    name: str = registry.copy(f"oci:{layout}:bookworm-slim", "debian:bookworm-slim")  # type: ignore[attr-defined]
    return name


@pytest.fixture(scope="session")
def build_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Debian base with a C compiler, Python and pip, as an OCI layout; how FROM names it."""
    return f"oci-layout:{debian_layout(BUILD_TAR, tmp_path_factory)}:bookworm-slim"
