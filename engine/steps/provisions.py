"""What a build gives its steps beside their file systems."""

from __future__ import annotations

from dataclasses import field

from engine.secrets import Secrets
from engine.sshagent import NO_AGENTS, Agents
from engine.vm.network.rules import EgressPolicy
from machinefile.values import dataclass


@dataclass(frozen=True, slots=True)
class Provisions:
    """The same for all steps of a build."""

    egress: EgressPolicy = field(default_factory=EgressPolicy)
    """What they may reach."""
    agents: Agents = field(default_factory=lambda: NO_AGENTS)
    """The sockets that RUN --mount=type=ssh leads to."""
    secrets: Secrets = field(default_factory=Secrets)
    step_timeout: float | None = None
    """Seconds that a RUN may take."""
    keep_times: bool = False
    """Whether what they make keeps its times."""
