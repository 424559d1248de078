"""The builders: how each is told to do a job, and what it says came of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from benchmark.job import Job, Outcome, Output
from benchmark.measure import BenchError
from benchmark.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("grammar", "machinefile", "cache", "engine", "mbuild")
Commands = tuple[tuple[str, ...], ...]


class Peer(Protocol):
    """A builder, with a folder of its own for all that it keeps."""

    folder: Path
    key: str
    """`mbuild`, `buildah` or `buildkit`."""
    label: str
    reproducible: bool
    """Whether the same build from nothing gives the same image."""

    def commands(self, job: Job) -> Commands:
        """The command lines, to be run one after another."""
        ...

    def outcome(self, job: Job) -> Outcome:
        """What the last job gave."""
        ...

    def empty(self) -> None:
        """Forget all images and results."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What the commands see."""
        ...

    @property
    def daemons(self) -> tuple[int, ...]:
        """Processes that do its work."""
        ...


class Mbuild:
    """The installed command."""

    key, label, reproducible = "mbuild", "mbuild", True
    daemons = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        beside = Path(sys.executable).with_name("mbuild")
        found = str(beside) if beside.is_file() else shutil.which("mbuild")
        if found is None:
            raise BenchError("mbuild is not installed: run scripts/setup, then .venv/bin/python scripts/bench")
        self.program = found
        compile_bytecode()
        self._templates = folder / "templates"
        self._templates.mkdir(parents=True)
        self.empty()

    @property
    def environment(self) -> Mapping[str, str]:
        """See Peer."""
        return environment(self.folder) | {"MBUILD_CACHE_DIR": str(self.store)}

    def commands(self, job: Job) -> Commands:
        """See Peer."""
        argv = [self.program, "--progress", "plain", "--metadata-file", str(self.folder / "metadata.json")]
        out = self.folder / "out"
        match job.output:
            case Output.NAME:
                argv += ["-t", job.name]
            case Output.TAR:
                argv += ["-o", f"type=oci,dest={out}.tar"]
            case Output.FOLDER:
                argv += ["-o", f"type=oci,dest={out}"]
            case Output.PUSH:
                argv += ["--push", "-t", job.name]
            case Output.NOTHING:
                pass
        argv += ["--cache-from", f"type=registry,ref={job.cache_from}"] if job.cache_from else []
        argv += ["--cache-to", f"type=registry,ref={job.cache_to},mode=max"] if job.cache_to else []
        return ((*argv, "-f", str(job.file), str(job.context)),)

    def outcome(self, job: Job) -> Outcome:
        """See Peer. An OCI layout must have that very image, and so must the registry."""
        said = json.loads((self.folder / "metadata.json").read_text())
        digest = said["image.digest"]
        match job.output:
            case Output.FOLDER:
                found = (self.folder / "out" / "index.json").read_text()
            case Output.TAR:
                found = index_in(self.folder / "out.tar")
            case Output.PUSH:
                found = Registry.of(job.name).digest(job.name)
            case _:
                found = digest
        if digest not in found:
            raise BenchError(f"{digest} was not written, but {found}")
        clear_output(self.folder, wanted=job.output)
        return Outcome(digest, said["steps"]["run"], said["vm.restores"])

    def empty(self) -> None:
        """See Peer. The microVMs' templates stay: they belong to the machine."""
        shutil.rmtree(self.store, ignore_errors=True)
        self.store.mkdir()
        (self.store / "vm").symlink_to(self._templates)


class Buildah:
    """buildah, with storage of its own."""

    key, label, reproducible = "buildah", "buildah", False
    daemons = ()

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        if os.geteuid() != 0:
            raise BenchError("buildah is run as root here, and this is not root")
        if shutil.which("buildah") is None:
            raise BenchError("buildah is not installed")
        self.folder = folder
        folder.mkdir()
        stack.callback(discard, folder)
        self._base = ("buildah", "--root", str(folder / "root"), "--runroot", str(folder / "run"))
        said = subprocess.run([*self._base, "--version"], capture_output=True, text=True, check=True, timeout=60)
        info = subprocess.run([*self._base, "info"], capture_output=True, text=True, check=True, timeout=60)
        driver = json.loads(info.stdout)["store"]["GraphDriverName"]
        self.label = f"buildah {said.stdout.split()[2]} ({driver})"

    @property
    def environment(self) -> Mapping[str, str]:
        """See Peer."""
        return environment(self.folder) | {"TMPDIR": str(self.folder)}

    def commands(self, job: Job) -> Commands:
        """See Peer."""
        name = job.name if job.output in (Output.NAME, Output.PUSH) else "localhost/out:1"
        argv = [*self._base, "bud", "--layers", "--isolation", "chroot", "--tls-verify=false"]
        argv += ["--iidfile", str(self.folder / "iid"), "-f", str(job.file)]
        argv += [] if job.output is Output.NOTHING else ["-t", name]
        argv += ["--cache-from", job.cache_from.rpartition(":")[0]] if job.cache_from else []
        argv += ["--cache-to", job.cache_to.rpartition(":")[0]] if job.cache_to else []
        build = (*argv, str(job.context))
        push = (*self._base, "push", "--quiet", "--tls-verify=false", name)
        match job.output:
            case Output.TAR:
                return build, (*push, f"oci-archive:{self.folder / 'out.tar'}")
            case Output.FOLDER:
                return build, (*push, f"oci:{self.folder / 'out'}")
            case Output.PUSH:
                return build, (*push, f"docker://{name}")
        return (build,)

    def outcome(self, job: Job) -> Outcome:
        """See Peer."""
        return image_id(self.folder, job)

    def empty(self) -> None:
        """See Peer."""
        for name in ("root", "run"):
            discard(self.folder / name)


def compile_bytecode() -> None:
    """Compile all modules, as an installer does, also where the caller's environment forbids it."""
    folders = [str(ROOT / name) for name in PACKAGES]
    packages = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    argv = [sys.executable, "-m", "compileall", "-q", *folders, *sorted(set(packages))]
    # What some package keeps for another version of Python cannot be compiled, and is not imported.
    subprocess.run(argv, env=environment(ROOT), stdout=subprocess.DEVNULL, check=False, timeout=600)


def environment(home: Path) -> dict[str, str]:
    """What any builder sees: nothing that the user has configured."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(home)}


def image_id(folder: Path, job: Job) -> Outcome:
    """For builders that write the digest of the image's configuration to a file `iid`."""
    clear_output(folder, wanted=job.output)
    if job.output is Output.PUSH:
        Registry.of(job.name).digest(job.name)
    return Outcome((folder / "iid").read_text())


def clear_output(folder: Path, *, wanted: Output) -> None:
    """Remove what a job wrote. Raises BenchError if there is nothing."""
    found = [path for path in (folder / "out", folder / "out.tar") if path.exists()]
    if wanted in (Output.TAR, Output.FOLDER) and not any(_size(path) > 100_000 for path in found):
        raise BenchError(f"no image was written to {folder}")
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def index_in(path: Path) -> str:
    """The index of an OCI layout in a tar."""
    with tarfile.open(path) as tar:
        member = tar.extractfile("index.json")
        if member is None:
            raise BenchError(f"{path} is no OCI layout")
        return member.read().decode()


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def discard(folder: Path) -> None:
    """Remove a folder in which file systems may be mounted."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=True, timeout=60)
    subprocess.run(["rm", "-rf", str(folder)], check=True, timeout=600)
