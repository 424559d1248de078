"""Two builders side by side: mbuild in this process, Debian's buildah with storage of its own."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from conformance.base_images import write_plain, write_rich
from conformance.image_reader import Image, read_dir, read_layout
from conformance.spec import Spec

from mbuild.commands import build

_SECONDS = 120


@dataclass(frozen=True)
class Bench:
    """Where builds happen: base images, stores, a folder a build."""

    folder: Path

    def set_up(self, templates: Path) -> None:
        """Write the base images. They are made once, and both builders read the same. The store uses templates that
        are made for others too."""
        (self.folder / "store").mkdir()
        (self.folder / "store" / "vm").symlink_to(templates)
        write_plain(self.folder / "plain")
        write_rich(self.folder / "rich.tar")

    @property
    def plain(self) -> Image:
        """What the specs call `@base@`."""
        return read_layout(self.folder / "plain")

    def mbuild(self, spec: Spec, name: str = "mbuild", *more: str) -> Image:
        """Build with mbuild, with more options, in a folder of that name. Raises MbuildError."""
        place = self._prepare(spec, name, f"oci-layout:{self.folder}/plain:latest")
        options = ["--cache-dir", str(self.folder / "store"), "--quiet", "-o", f"type=oci,dest={place}/out"]
        assert build.main([*options, *more, *_arguments(place, spec)], threading.Event()) == 0
        return read_layout(place / "out")

    def buildah(self, spec: Spec) -> Image | str:
        """Build with buildah; what it said where it failed."""
        place = self._prepare(spec, "buildah", f"oci:{self.folder}/plain:latest")
        # Nothing of the machine's own is touched. Buildahs that share a storage would only wait for its locks.
        storage = self.folder / f"storage-{threading.get_ident()}"
        options = ["--root", str(storage / "root"), "--runroot", str(storage / "run"), "--storage-driver", "vfs"]
        # Only Docker's format holds HEALTHCHECK, ONBUILD and SHELL.
        words = ["build", "--isolation", "chroot", "--format", "docker", "--no-cache", "--quiet"]
        done = subprocess.run(
            ["buildah", *options, *words, "--tag", f"dir:{place}/out", *_arguments(place, spec)],
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(place)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        return read_dir(place / "out") if done.returncode == 0 else done.stderr

    def _prepare(self, spec: Spec, builder: str, plain: str) -> Path:
        place = self.folder / builder / spec.topic / re.sub(r"\W+", "-", spec.name)
        place.mkdir(parents=True)
        spec.write_context(place / "context")
        rich = f"docker-archive:{self.folder}/rich.tar"
        text = spec.machinefile.replace("@base@", plain).replace("@rich@", rich)
        (place / "Machinefile").write_bytes(text.encode("utf-8", "surrogateescape"))
        return place


def _arguments(place: Path, spec: Spec) -> list[str]:
    return ["-f", str(place / "Machinefile"), *spec.args, str(place / "context")]
