"""The guest agent's program, which is compiled when mbuild is packaged (scripts/hatch_build.py)."""

from __future__ import annotations

from pathlib import Path

from machinefile.errors import HostError


def agent_path(machine: str = "x86_64") -> Path:
    """Where the agent for a guest of that machine (uname -m) lies.

    Raises HostError `agent-missing`.
    """
    name = f"mbuild-agent-{machine}"
    found = Path(__file__).parent / "agent" / name
    if not found.is_file():
        raise HostError(
            f"this installation of mbuild lacks its guest agent ({name})",
            code="agent-missing",
            hint="reinstall mbuild: pip install --force-reinstall machinefile",
        )
    return found
