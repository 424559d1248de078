"""The resolved form of a build: steps in which every variable, path and name has its value.

A step says what to do and on what, never how. Steps that make a file system (`From`, `Run`, `Copy`,
`Workdir`) hang below one another; a step that only changes the image's configuration (`Metadata`) hangs
below the file system it stands on and has no children, so that a changed LABEL reruns nothing.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

from machinefile.clocks import Clock
from machinefile.imageconfig import ImageConfig, Pairs
from machinefile.platform import Platform
from machinefile.source import Span
from machinefile.values import dataclass

if TYPE_CHECKING:
    import networkx

SCRATCH = "scratch"


@dataclass(frozen=True, slots=True)
class BaseReference:
    """An image that a FROM or a --from names, for a platform."""

    reference: str
    """As written after substitution: `debian:bookworm-slim`, `oci-layout:/dir`, `docker-archive:/file.tar`, `scratch`;
    `context:NAME` for a named context that stands in for an image or a stage."""
    platform: Platform


@dataclass(frozen=True, slots=True)
class BaseImage:
    """What resolving needs to know of a base: its identity and its configuration."""

    digest: str
    """Of the manifest for the platform, `sha256:...`; empty for scratch."""
    config: ImageConfig
    platform: Platform | None = None
    """What it says it runs on, where that is known."""


class NetworkMode(Enum):
    """RUN --network."""

    DEFAULT = "default"
    NONE = "none"
    HOST = "host"


class MountType(Enum):
    """RUN --mount=type=..."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"  # noqa: S105 - a mount type, not a secret
    SSH = "ssh"


class Sharing(Enum):
    """RUN --mount=type=cache,sharing=..."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


@dataclass(frozen=True, slots=True)
class FromStep:
    """Where the files come from: another step (a stage's last)."""

    step: str
    """The step's id."""


@dataclass(frozen=True, slots=True)
class FromContext:
    """Where the files come from: the build context, or a named one."""

    name: str = ""
    """Empty for the main context."""


@dataclass(frozen=True, slots=True)
class FromNothing:
    """No files from elsewhere: the step carries them itself (heredocs)."""


Origin = FromStep | FromContext | FromNothing


@dataclass(frozen=True, slots=True)
class Mount:
    """One RUN --mount."""

    type: MountType
    target: str
    origin: Origin = field(default_factory=FromNothing)
    source: str = "/"
    read_only: bool = True
    id: str = ""
    sharing: Sharing = Sharing.SHARED
    required: bool = False
    environment: str = ""
    """secret: the variable that receives it; empty for a file only."""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    """tmpfs: bytes."""
    version: str = ""
    """secret: what stands for its version in keys; empty without one. The engine fills it in."""


@dataclass(frozen=True, slots=True)
class MachineShape:
    """MACHINE: what a microVM gets. Sizes in bytes."""

    cpus: int = 2
    memory: int = 2 << 30
    disk: int = 20 << 30


@dataclass(frozen=True, slots=True)
class From:
    """FROM an image, or scratch."""

    base: BaseReference
    digest: str
    """Empty for scratch."""


@dataclass(frozen=True, slots=True)
class Run:
    """RUN a command in a microVM."""

    argv: tuple[str, ...]
    """What is executed: for the shell form the shell's words and the script."""
    environment: Pairs
    """Everything the process sees: ENV, the ARGs in scope, PATH; sorted by name."""
    user: str
    """As USER has it; empty for root."""
    working_dir: str
    """Absolute."""
    network: NetworkMode = NetworkMode.DEFAULT
    mounts: tuple[Mount, ...] = ()
    shape: MachineShape = field(default_factory=MachineShape)
    files: tuple[InlineFile, ...] = ()
    """A heredoc script that names its own interpreter (`#!`): shown to the step under this absolute path, never
    in the layer."""
    hosts: Pairs = ()
    """Names for etc/hosts that the build was given, each with an address or `host-gateway`."""
    privileged: bool = False
    """--security=insecure."""
    ttl: int | None = None
    """--ttl: nanoseconds after which its result does not count any more; None for never. It is in no key."""
    clock: Clock = Clock.REAL
    """--clock."""
    proxy: Pairs = ()
    """Proxy settings given with --build-arg without an ARG, sorted by name: the process sees those whose names are
    not in `environment`. They are in no key, no history and no image."""


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A heredoc's content as a file."""

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY, or ADD of what is local."""

    origin: Origin
    sources: tuple[str, ...]
    """Patterns, relative to the origin's root, cleaned: never absolute, never `..`."""
    destination: str
    """Absolute, cleaned."""
    into_directory: bool
    """The destination was written with a trailing slash (or `.`), or more than one source is given."""
    owner: str = ""
    """--chown as written after substitution: `user[:group]` by name or number; empty for root."""
    mode: str = ""
    """--chmod as written: octal or symbolic; empty to keep the source's."""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    unpack: bool = False
    """ADD: a source file that is a tar archive is unpacked."""
    files: tuple[InlineFile, ...] = ()
    """Heredoc sources."""


@dataclass(frozen=True, slots=True)
class RemoteSource:
    """ADD of a URL or a git repository."""

    url: str
    checksum: str = ""
    pinned: str = ""
    """What it stands for now, once the engine has found out: the digest of a file, the commit of a repository."""
    keep_git_dir: bool = False
    destination: str = "/"
    into_directory: bool = False
    owner: str = ""
    mode: str = ""
    link: bool = False
    unpack: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workdir:
    """WORKDIR: a directory to be made if it is missing."""

    path: str
    """Absolute, cleaned."""
    user: str = ""
    """Who owns it when it is made: USER at this point, by name or number; empty for root."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """An instruction that changes only the image's configuration (ENV, LABEL, CMD, MACHINE, ...)."""

    name: str
    """The instruction's name, upper case."""
    arguments: tuple[str, ...]
    """Resolved, in order."""


Operation = From | Run | Copy | RemoteSource | Workdir | Metadata


@dataclass(frozen=True, slots=True)
class Step:
    """A node of the build graph."""

    id: str
    """Unique and stable for a file: `STAGE.N`, STAGE its stage's name or number, N counting steps from 0."""
    stage: str
    """The stage's name, or its number where it has none."""
    instruction: str
    """For display: the instruction with its variables resolved, on one line."""
    operation: Operation
    parent: str | None
    """The step whose file system this one starts from."""
    inputs: tuple[str, ...] = ()
    """Other steps whose files it reads (COPY --from, mounts), in order, without repeats."""
    span: Span | None = None
    created_by: str = ""
    """The history line, as Docker writes it: `RUN /bin/sh -c make # buildkit`."""
    keep_times: bool = False
    """Whether what it makes keeps its times (--timestamps=keep)."""

    @property
    def makes_layer(self) -> bool:
        """Whether it may add a layer to the image."""
        return not isinstance(self.operation, (From, Metadata))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """SNAPSHOT: when a machine is ready to be frozen."""

    ready: str = ""
    """`tcp:PORT`, `exec:COMMAND`, `healthcheck`, or empty: as soon as the entrypoint runs."""
    timeout: float = 30.0
    """Seconds."""


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - the field's own word; never used beside the builtin
    """Something that is allowed and probably not meant."""

    message: str
    code: str
    span: Span | None = None
    hint: str = ""


@dataclass(frozen=True)
class BuildGraph:
    """The steps that the target needs, each after everything it depends on."""

    target: str
    """The target stage's name or number."""
    steps: tuple[Step, ...]
    result: str
    """The id of the step whose file system the image has."""
    config: ImageConfig
    """The image's configuration."""
    platform: Platform
    shape: MachineShape = field(default_factory=MachineShape)
    snapshot: Snapshot | None = None
    warnings: tuple[Warning, ...] = ()
    author: str = ""
    """MAINTAINER."""
    history: tuple[str, ...] = ()
    """The ids of the steps that the image's history lists after its base's own, in order: those of the target
    stage and of the stages it is FROM, the From step itself left out."""

    def step(self, step_id: str) -> Step:
        """The step of that id. Raises KeyError."""
        return self._by_id[step_id]

    @property
    def _by_id(self) -> dict[str, Step]:
        cached: dict[str, Step] | None = self.__dict__.get("_index")
        if cached is None:
            cached = self.__dict__["_index"] = {step.id: step for step in self.steps}
        return cached

    def chain(self, step_id: str) -> tuple[Step, ...]:
        """A step and the steps below it down to its FROM, FROM first."""
        found: list[Step] = []
        current: str | None = step_id
        while current is not None:
            found.append(self._by_id[current])
            current = found[-1].parent
        return tuple(reversed(found))

    def digraph(self) -> networkx.DiGraph[str]:
        """The same as a networkx graph: a node an id, an edge from each input to the step that needs it."""
        import networkx as nx  # slow to import, and a build that is cached never asks for it

        graph: networkx.DiGraph[str] = nx.DiGraph()
        for step in self.steps:
            graph.add_node(step.id, step=step)
            for needed in (step.parent, *step.inputs):
                if needed is not None:
                    graph.add_edge(needed, step.id)
        return graph
