"""BuildKit: buildctl and buildkitd where they are installed, or else the one inside a dockerd of our own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmark.job import Job, Outcome, Output
from benchmark.measure import BenchError
from benchmark.peer import Commands, clear_output, discard, environment, image_id

_START_SECONDS = 60.0


def find_buildkit(folder: Path, stack: ExitStack) -> Buildctl | Docker:
    """Start what there is. Raises BenchError, which says what is missing."""
    if os.geteuid() != 0:
        raise BenchError("BuildKit's daemon is run as root here, and this is not root")
    folder.mkdir()
    stack.callback(discard, folder)
    if shutil.which("buildctl") and shutil.which("buildkitd"):
        return Buildctl(folder, stack)
    client = _client_with_buildkit(folder)
    if client is None or shutil.which("dockerd") is None:
        raise BenchError("neither buildctl and buildkitd nor dockerd and a docker that builds with it are installed")
    return Docker(folder, client, stack)


class Docker:
    """BuildKit in dockerd, whose images are Docker's own: an image as a file is what `docker save` writes."""

    key, reproducible = "buildkit", False

    def __init__(self, folder: Path, client: str, stack: ExitStack) -> None:
        self.folder = folder
        (folder / "daemon.json").write_text("{}")
        socket = f"unix://{folder / 'socket'}"
        argv = ["dockerd", "--config-file", str(folder / "daemon.json"), "--host", socket]
        argv += ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
        argv += ["--pidfile", str(folder / "pid"), "--bridge=none", "--iptables=false", "--ip6tables=false"]
        argv += ["--ip-forward=false", "--ip-masq=false"]
        self._base = (client, "--host", socket)
        self._version = (*self._base, "version", "--format", "{{.Server.Version}}")
        self._pid = _daemon(argv, folder, stack, lambda: _works(self._version, self.environment))
        self.label = f"BuildKit (in dockerd {_said(self._version, self.environment)})"

    @property
    def environment(self) -> Mapping[str, str]:
        """See Peer."""
        return environment(self.folder) | {"DOCKER_BUILDKIT": "1"}

    @property
    def daemons(self) -> tuple[int, ...]:
        """See Peer."""
        return _family(self._pid)

    def commands(self, job: Job) -> Commands:
        """See Peer."""
        name = job.name if job.output in (Output.NAME, Output.PUSH) else "out:1"
        # Its daemon has no bridge; a step has the host's network, as buildah's has.
        argv = [*self._base, "build", "--progress", "plain", "--network", "host"]
        argv += ["--iidfile", str(self.folder / "iid"), "-f", str(job.file)]
        argv += [] if job.output is Output.NOTHING else ["-t", name]
        argv += ["--cache-from", job.cache_from] if job.cache_from else []
        argv += ["-t", job.cache_to, "--build-arg", "BUILDKIT_INLINE_CACHE=1"] if job.cache_to else []
        build = (*argv, str(job.context))
        match job.output:
            case Output.TAR | Output.FOLDER:
                return build, (*self._base, "save", "-o", str(self.folder / "out.tar"), name)
            case Output.PUSH:
                return build, *((*self._base, "push", "--quiet", pushed) for pushed in (name, job.cache_to) if pushed)
        return (build,)

    def outcome(self, job: Job) -> Outcome:
        """See Peer."""
        return image_id(self.folder, job)

    def empty(self) -> None:
        """See Peer."""
        _said((*self._base, "system", "prune", "--all", "--force"), self.environment)


class Buildctl:
    """buildctl, with a buildkitd of our own."""

    key, reproducible = "buildkit", False

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        (folder / "buildkitd.toml").write_text("")
        socket = f"unix://{folder / 'socket'}"
        argv = ["buildkitd", "--config", str(folder / "buildkitd.toml"), "--addr", socket]
        argv += ["--root", str(folder / "data")]
        self._base = ("buildctl", "--addr", socket)
        workers = (*self._base, "debug", "workers")
        self._pid = _daemon(argv, folder, stack, lambda: _works(workers, self.environment))
        self.label = f"BuildKit {_said(('buildkitd', '--version'), self.environment).split()[2]}"

    @property
    def environment(self) -> Mapping[str, str]:
        """See Peer."""
        return environment(self.folder)

    @property
    def daemons(self) -> tuple[int, ...]:
        """See Peer."""
        return _family(self._pid)

    def commands(self, job: Job) -> Commands:
        """See Peer. Plain HTTP is what it uses for loopback by itself."""
        argv = [*self._base, "build", "--progress", "plain", "--frontend", "dockerfile.v0"]
        argv += ["--local", f"context={job.context}", "--local", f"dockerfile={job.file.parent}"]
        argv += ["--opt", f"filename={job.file.name}", "--metadata-file", str(self.folder / "metadata.json")]
        match job.output:
            case Output.NAME:
                argv += ["--output", f"type=image,name={job.name}"]
            case Output.TAR | Output.FOLDER:
                argv += ["--output", f"type=oci,dest={self.folder / 'out.tar'}"]
            case Output.PUSH:
                argv += ["--output", f"type=image,name={job.name},push=true"]
            case Output.NOTHING:
                pass
        argv += ["--import-cache", f"type=registry,ref={job.cache_from}"] if job.cache_from else []
        argv += ["--export-cache", f"type=registry,ref={job.cache_to},mode=max"] if job.cache_to else []
        return (tuple(argv),)

    def outcome(self, job: Job) -> Outcome:
        """See Peer. It knows no digest of an image that goes nowhere."""
        clear_output(self.folder, wanted=job.output)
        said = json.loads((self.folder / "metadata.json").read_text())
        digest = said.get("containerimage.digest", "")
        if not digest and job.output is not Output.NOTHING:
            raise BenchError(f"buildctl did not say the image's digest: {said}")
        return Outcome(digest)

    def empty(self) -> None:
        """See Peer."""
        _said((*self._base, "prune", "--all"), self.environment)


def _client_with_buildkit(folder: Path) -> str | None:
    """The first docker that can: newer ones need buildx beside them."""
    for place in os.environ.get("PATH", "").split(os.pathsep):
        program = os.path.join(place, "docker")
        if os.access(program, os.X_OK) and _works(
            (program, "build", "--help"), environment(folder) | {"DOCKER_BUILDKIT": "1"}
        ):
            return program
    return None


def _daemon(argv: Sequence[str], folder: Path, stack: ExitStack, ready: Callable[[], bool]) -> int:
    """Start a daemon, to be ended with the stack; gives its pid when it is ready. Raises BenchError."""
    log = stack.enter_context((folder / "log").open("w+b"))
    process = subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(folder), cwd=folder
    )
    stack.callback(_end, process)
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise BenchError(f"{argv[0]} does not start here: {log.read().decode(errors='replace').strip()[-400:]}")
        time.sleep(0.1)
    return process.pid


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _family(pid: int) -> tuple[int, ...]:
    """A process and its children."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:  # it ended
            continue
        if int(parent) == pid:
            found.append(int(path.parent.name))
    return tuple(found)


def _works(argv: Sequence[str], seen: Mapping[str, str]) -> bool:
    done = subprocess.run(list(argv), env=dict(seen), capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    return done.returncode == 0


def _said(argv: Sequence[str], seen: Mapping[str, str]) -> str:
    done = subprocess.run(
        list(argv), env=dict(seen), capture_output=True, stdin=subprocess.DEVNULL, timeout=600, check=True, text=True
    )
    return done.stdout.strip()
