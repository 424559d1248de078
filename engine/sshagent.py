"""RUN --mount=type=ssh: the agents of this machine that a step may ask for signatures. No private key enters a guest.

What a step sends is looked through (`AgentScreen`): it may list keys and have data signed, and no more.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

from engine.vm.socketmount import Screen, SocketMount
from machinefile.errors import HostError, MachinefileError, Problem, UsageError
from machinefile.imageconfig import Pairs
from machinefile.steps import BuildGraph, Mount, MountType, Run
from machinefile.values import dataclass

Agents = Mapping[str, str]
"""The path of the agent's socket for each id."""
NO_AGENTS: Agents = MappingProxyType({})
_DEFAULT = "default"
_HINT = "run: sudo apt-get install openssh-client"
_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class AgentSource:
    """--ssh ID[=SOCKET|KEY[,KEY]]"""

    id: str
    socket: str = ""
    keys: tuple[str, ...] = ()
    """Files with private keys, for an agent that lives as long as the build; or there is a socket."""


def parse_agent(text: str) -> AgentSource:
    """Read one --ssh. Raises UsageError: `ssh-invalid`, `ssh-missing`."""
    name, _, value = text.partition("=")
    name = name or _DEFAULT
    paths = [path for path in value.split(",") if path]
    if not paths:
        # As docker build has it, an id of any name without a path means the agent of the user.
        address = os.environ.get("SSH_AUTH_SOCK", "")
        if not address:
            raise UsageError(
                f"--ssh {text}: there is no ssh-agent (SSH_AUTH_SOCK is not set)",
                code="ssh-missing",
                hint=f"start one with: eval $(ssh-agent); ssh-add; or name a key: --ssh {name}=KEYFILE",
            )
        paths = [address]
    sockets = [path for path in paths if _is_socket(path, text)]
    if sockets and len(paths) > 1:
        raise UsageError(f"--ssh {text}: only one agent's socket, and no keys beside it", code="ssh-invalid")
    absolute = tuple(os.path.abspath(path) for path in paths)
    return AgentSource(name, socket=absolute[0]) if sockets else AgentSource(name, keys=absolute)


def _is_socket(path: str, text: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"--ssh {text}: {path}: {error.strerror}", code="ssh-missing") from error
    if not stat.S_ISSOCK(mode) and not stat.S_ISREG(mode):
        raise UsageError(f"--ssh {text}: {path} is neither a socket nor a file", code="ssh-invalid")
    return stat.S_ISSOCK(mode)


def _mounts(operation: Run) -> tuple[Mount, ...]:
    return tuple(mount for mount in operation.mounts if mount.type is MountType.SSH)


def check_agents(graph: BuildGraph, sources: Sequence[AgentSource]) -> None:
    """Before anything runs: every mount that is required can be made. Raises MachinefileError `ssh-missing`."""
    known = {source.id for source in sources}
    problems = [
        Problem(
            f"RUN --mount=type=ssh needs the ssh-agent {mount.id!r}, which was not given",
            "ssh-missing",
            step.span,
            f"give it with --ssh {mount.id}",
        )
        for step in graph.steps
        if isinstance(step.operation, Run)
        for mount in _mounts(step.operation)
        if mount.required and mount.id not in known
    ]
    if problems:
        raise MachinefileError(problems)


def agent_sockets(operation: Run, agents: Agents) -> tuple[SocketMount, ...]:
    """The sockets that a step sees; one that was not given is left out."""
    return tuple(
        SocketMount(
            mount.target,
            agents[mount.id],
            0o600 if mount.mode is None else mount.mode,
            mount.uid or 0,
            mount.gid or 0,
            AgentScreen,
        )
        for mount in _mounts(operation)
        if mount.id in agents
    )


def with_agent(environment: Pairs, operation: Run) -> Pairs:
    """The environment with SSH_AUTH_SOCK for the first of the step's agents, as BuildKit sets it: given or not."""
    mounts = _mounts(operation)
    if not mounts or any(name == "SSH_AUTH_SOCK" for name, _ in environment):
        return environment
    return tuple(sorted((*environment, ("SSH_AUTH_SOCK", mounts[0].target))))


class AgentScreen(Screen):
    """Lets requests for the keys' names and for signatures through. Others, which would change the agent, become one
    that no agent knows, so that it refuses. Source: draft-miller-ssh-agent, 3 and 5.1; BuildKit refuses the same."""

    _allowed = (11, 13)
    """SSH_AGENTC_REQUEST_IDENTITIES, SSH_AGENTC_SIGN_REQUEST."""
    _refused = b"\0\0\0\1\xff"

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        """Bytes of the message that is under way."""
        self._passes = True

    def pass_on(self, data: bytes) -> bytes:
        """What may be sent of `data`."""
        out = bytearray()
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                if self._passes:
                    out += part
                continue
            missing = 5 - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if self._head[:4] == b"\0\0\0\0":  # no message: nothing to pass on or to refuse
                self._head = self._head[4:]
            elif len(self._head) == 5:
                self._passes = self._head[4] in self._allowed
                out += self._head if self._passes else self._refused
                self._left = int.from_bytes(self._head[:4], "big") - 1
                self._head = b""
        return bytes(out)


@contextmanager
def open_agents(
    sources: Sequence[AgentSource], graphs: Sequence[BuildGraph], folder: Callable[[], Path]
) -> Iterator[Agents]:
    """The agents of a build, those of its own only while the context is open; `folder` makes a folder for them.

    Raises HostError: `program-missing`, `ssh-agent-failed`; UsageError: `ssh-key-encrypted`, `ssh-key-unusable`.
    """
    runs = (step.operation for graph in graphs for step in graph.steps if isinstance(step.operation, Run))
    wanted = {mount.id for run in runs for mount in _mounts(run)}
    with ExitStack() as stack:
        agents = {}
        for source in sources:
            if source.id in wanted:
                agents[source.id] = source.socket or stack.enter_context(_own_agent(source.keys, folder()))
        yield agents


@contextmanager
def _own_agent(keys: Sequence[str], folder: Path) -> Iterator[str]:
    from engine import process

    for key in keys:
        _check_key(key)
    # The paths are relative, because the address of a socket is short.
    # Debian's is set-group-ID: it would outlive us with the keys if we were killed.
    agent = process.spawn(["ssh-agent", "-D", "-a", "agent"], cwd=folder, hint=_HINT, new_privileges=False)
    with process.running(agent):
        address = folder / "agent"
        deadline = time.monotonic() + _START_SECONDS
        while not address.exists():
            if agent.poll() is not None or time.monotonic() > deadline:
                raise HostError("ssh-agent does not start", code="ssh-agent-failed", hint=_HINT)
            time.sleep(0.01)
        extra = {"SSH_AUTH_SOCK": "agent"}
        for key in keys:
            try:
                process.run(["ssh-add", "-q", key], timeout=30, cwd=folder, extra_environment=extra, hint=_HINT)
            except HostError as error:
                if error.code != "program-failed":
                    raise
                raise UsageError(
                    f"--ssh: the key {key} cannot be used: {error.message}", code="ssh-key-unusable"
                ) from error
        yield str(address)


def _check_key(key: str) -> None:
    from engine import process

    try:
        process.run(["ssh-keygen", "-y", "-P", "", "-f", key], timeout=30, hint=_HINT)
    except HostError as error:
        if error.code != "program-failed":
            raise
        if "passphrase" in error.message:
            raise UsageError(
                f"--ssh: the key {key} is encrypted, and mbuild asks for no passphrase",
                code="ssh-key-encrypted",
                hint="add it to your agent with ssh-add, and give that: --ssh default",
            ) from error
        raise UsageError(f"--ssh: the key {key} cannot be used: {error.message}", code="ssh-key-unusable") from error
