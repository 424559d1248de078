"""Where a comparison happens: the registry with the bases, and the contexts, made when first asked for."""

from __future__ import annotations

import shutil
import subprocess
from functools import cached_property
from pathlib import Path

from e2e_bases import write_busybox_layout
from oci_base import make_layout

from benchmark import specs
from benchmark.job import Job, Output
from benchmark.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / ".cache" / "debian-bookworm-gcc.tar.gz"


class Place:
    """A folder, and what is in it.

    FOLDER/ctx/SCENARIO/Machinefile, and what it copies
    """

    def __init__(self, folder: Path, registry: Registry, *, small: bool = False) -> None:
        self.folder = folder
        self.registry = registry
        self.small = small

    @cached_property
    def busybox(self) -> str:
        """The name of a base of 2 MB."""
        write_busybox_layout(self.folder / "busybox")
        return self.registry.copy(f"oci:{self.folder / 'busybox'}:latest", "bench:busybox")

    @cached_property
    def base(self) -> str:
        """The name of the base of 150 MB, one gzip layer."""
        return self.busybox if self.small else push_base(self.folder, self.registry)

    @property
    def pinned(self) -> str:
        """The same with its digest."""
        return f"{self.base}@{self.registry.digest(self.base)}"

    def context(self, name: str, files: int = 0, blob: int = 0) -> Path:
        """A context with so many files in `src`, and a blob of so many bytes."""
        folder = self.folder / "ctx" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "small").write_text("small\n")
            specs.write_files(folder / "src", files)
            if blob:
                specs.write_blob(folder / "blob", blob)
        return folder

    def job(self, context: Path, text: str, output: Output = Output.NOTHING, *, cache: str = "", send: str = "") -> Job:
        """Write the Machinefile, and say what to do with it."""
        file = context / "Machinefile"
        file.write_text(text)
        name = f"{self.registry.address}/{context.name}:1" if output in (Output.NAME, Output.PUSH) else ""
        return Job(file, context, output, name, cache, send)


def push_base(folder: Path, registry: Registry) -> str:
    """Put the base of 150 MB into a registry, made first if it is not there; gives its name."""
    if not BASE.exists():
        subprocess.run([ROOT / "scripts" / "setup", "--gcc-base"], check=True)
    make_layout(BASE, folder / "layout", "base")
    name = registry.copy(f"oci:{folder / 'layout'}:base", "bench:base")
    shutil.rmtree(folder / "layout")
    return name
